"""The pilots of an advice on the user's stream: run, or taken from their files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm._flat import flat
from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.durable import Command, say_where
from avalanche_vlm.commands.jobs import FAILURE
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.requests import AdviseRequest
from avalanche_vlm.commands.requests.experiment import LATER
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation import comparable
from avalanche_vlm.storage.durable import write_or_remark
from avalanche_vlm.storage.json_files import TruncatedError
from avalanche_vlm.studies.parallel import Failure
from avalanche_vlm.units import percent

if TYPE_CHECKING:
    from avalanche_vlm.studies.advice.constraints import Constraints
    from avalanche_vlm.studies.advice.elapsed import Elapsed
    from avalanche_vlm.studies.advice.pilot import Pilot
    from avalanche_vlm.training.settings import TrainSettings

UNFINISHED = "unfinished-pilots"
"""The folder of the checkpoints of pilots, in the command's own. It is gone when the advice is given."""
_UNSAID = tuple(place + name for name in comparable.LATER for place in ("", "conditions."))
"""Facts that pilots of earlier versions do not say."""
MORE = 1.1
"""How many times as much time a pilot must have as when it was broken off, to be tried again."""


def constraints_of(request: AdviseRequest) -> Constraints:
    """What the recommended recipe must keep within.

    :param request: what was asked for.
    :return: the constraints as advice takes them.
    """
    from avalanche_vlm.studies.advice.constraints import Constraints

    return Constraints(**request.limits.model_dump())


class Stream:
    """The user's stream, and its pilots: run, or taken from their files.

    :param request: what was asked for.
    :param progress: shows the pilots as they run.
    :param clock: tells the time that the advice has taken, that of pilots taken from their files included.
    :param command: writes the checkpoints of the pilots, and can be told to end.
    :param jobs: pilots at once: what one took that is kept counts by as much less.
    """

    def __init__(
        self, request: AdviseRequest, progress: Progress, clock: Elapsed, command: Command, jobs: int = 1
    ) -> None:
        from avalanche_vlm.studies.advice.pilots import Pilots
        from avalanche_vlm.studies.conditions import conditions_of

        self._request, self._progress, self.clock, self._command = request, progress, clock, command
        self._jobs = jobs
        self._asked = prepare.experiment(request, "fine-tune", request.seed)
        self._places: dict[tuple[str, float], tuple[Path, dict[str, Any]]] = {}
        model, self._benchmark = prepare.opened(self._asked)
        self._model = model
        self._conditions = conditions_of(self._benchmark, model)
        limits, device = constraints_of(request), self._asked.device
        self.pilots = Pilots(
            self._benchmark, model, self._settings, limits, seed=request.seed, device=device, clock=clock
        )

    def protocol(self) -> dict[str, Any]:
        """What the advice is about."""
        return prepare.protocol(self._asked, self._model, self._benchmark, self._conditions)

    def known(self, recipe: str, share: float) -> bool:
        """Whether a pilot was run before, to its end.

        :param recipe: name of the recipe.
        :param share: share of the training data, in (0, 1].
        :raises InputError: if its file was changed, or is of another pilot or stream: the recipe is not passed over.
        """
        path, asked = self._asked_for(recipe, share)
        return self._finished(path, _kept(path, asked)) is not None

    def run(self, recipe: str, share: float, deadline: float) -> Pilot:
        """A pilot, from its file if it was run before. What it took then counts.

        :param recipe: name of the recipe.
        :param share: share of the training data, in (0, 1].
        :param deadline: time by the advice's clock, in seconds, at which the pilot must have ended.
        :return: what the pilot came to.
        :raises OutOfTime: if it was broken off at the deadline, or before, with no more time than it has now.
        """
        from avalanche_vlm.studies.advice.advised import PILOT
        from avalanche_vlm.studies.advice.halving import OutOfTime

        path, asked = self._asked_for(recipe, share)
        label, kept = f"{recipe} on {percent(share)}", _kept(path, asked)
        if (pilot := self._finished(path, kept)) is not None:
            self._progress.say(f"{label}: finished before, kept")
            self.clock.add(pilot.seconds / self._jobs)
            return pilot
        begun = self.clock()
        allowed, tried = deadline - begun, kept.get("broken off")
        if tried is not None and allowed <= MORE * tried["allowed"]:
            self._progress.say(f"{label}: broken off before, and there is no more time for it now")
            self.clock.add(tried["took"] / self._jobs)
            raise OutOfTime
        if changed_since := self._changed(path, asked):
            self._progress.say(f"{label}: {changed_since} has changed since it was run, run again")
        try:
            with (
                self._command.training(self._checkpoints(path), self._request.checkpoint_minutes) as checkpoint,
                self._progress.task(label, len(self._benchmark.task_names)) as advance,
            ):
                pilot = self.pilots.run(
                    recipe,
                    share,
                    deadline,
                    advance,
                    checkpoint,
                    lambda plugin: say_where(self._progress, label, plugin),
                )
                kept = {"request": asked, "pilot": pilot.as_json()}
                write_or_remark(lambda: PILOT.write(path, kept), self._progress.say)
        except OutOfTime:
            tried = {"allowed": round(allowed, 2), "took": round(self.clock() - begun, 2)}
            left = {"request": asked, "broken off": tried}
            write_or_remark(lambda: PILOT.write(path, left), self._progress.say)
            raise
        except InputError:
            raise
        except Exception as error:  # which ends this pilot, and is told of it in a sentence
            text = Failure.of(error).traceback
            write_or_remark(lambda: store.write_text(path.parent / FAILURE, text), lambda why: None)
            raise
        return pilot

    def _finished(self, path: Path, kept: dict[str, Any]) -> Pilot | None:
        """The pilot that a file holds, of this stream's samples; None where it was not run to its end."""
        from avalanche_vlm.studies.advice.pilot import Pilot

        if "pilot" not in kept:
            return None
        pilot = Pilot.from_json(kept["pilot"])
        self.pilots.check(pilot, path)
        return pilot

    def _checkpoints(self, path: Path) -> Path:
        """The folder of the checkpoints of a pilot."""
        return self._request.out / UNFINISHED / f"{path.parent.name}-{path.stem}"

    def _asked_for(self, recipe: str, share: float) -> tuple[Path, dict[str, Any]]:
        """The file of a pilot, and everything that decides what it comes to."""
        if (recipe, share) in self._places:
            return self._places[recipe, share]
        from avalanche_vlm.studies.conditions import resources_in_use
        from avalanche_vlm.training import recipes

        train, options = self.pilots.settings(recipe)
        options = {**recipes.get(recipe).settings, **options}
        changed = {"recipe": recipe, "train": train, "recipe_options": options}
        start = {**self._conditions, "resources": resources_in_use(self._benchmark, recipe, options)}
        asked = {**self._asked.model_copy(update=changed).stored(), "share": share, "conditions": start}
        said = _said(asked)
        # Earlier versions named a file by more of what was asked, or by less.
        names = [f"{share:.3f}-{_key(of)}.json" for of in (said, _less(said, _UNSAID), asked, _less(asked, _UNSAID))]
        paths = [self._request.out / "pilots" / recipe / name for name in names]
        path = next(filter(os.path.lexists, paths), paths[0])
        self._places[recipe, share] = path, asked
        return self._places[recipe, share]

    def _changed(self, path: Path, asked: dict[str, Any]) -> str | None:
        """The fact about data, model or resources in which a pilot that is there differs from what is asked, if it
        differs in nothing else."""
        from avalanche_vlm.studies.advice.advised import PILOT

        share, words = path.name.split("-")[0], {**asked, "conditions": None}
        for other in sorted(path.parent.glob(f"{share}-*.json")):
            with contextlib.suppress(InputError):  # one that cannot be read says nothing, and nobody asks for it
                old = PILOT.read(other)["request"]
                then = old.get("conditions")
                if isinstance(then, dict) and _asks_the_same({**old, "conditions": None}, words):
                    return comparable.difference(then, asked["conditions"])
        return None

    def _settings(self, recipe: str) -> tuple[TrainSettings, dict[str, Any]]:
        from avalanche_vlm.training.settings import TrainSettings

        fields, chosen = prepare.settings(self._request, recipe)
        return TrainSettings(**fields), chosen


def _less(asked: Mapping[str, Any], names: Collection[str], outer: str = "") -> dict[str, Any]:
    """What was asked without what stands under some dotted names, and without the groups that are empty then."""
    found: dict[str, Any] = {}
    for name, value in asked.items():
        place = f"{outer}{name}"
        if isinstance(value, dict) and value:
            if inside := _less(value, names, f"{place}."):
                found[name] = inside
        elif place not in names:
            found[name] = value
    return found


def _said(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked as a version without the settings that came later would say it, as far as it can."""
    words = flat(asked)
    return _less(asked, [name for name, meant in LATER.items() if name in words and words[name] == meant])


def _key(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def _asks_the_same(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether a pilot that is kept is the one that is asked for; facts that one of them does not say because it is of
    an earlier version stand between no two."""
    first, second = flat(_said(kept)), flat(_said(asked))
    unsaid = [name for name in _UNSAID if name not in first or name not in second]
    return _less(first, unsaid) == _less(second, unsaid)


def _kept(path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What is kept of this very pilot; empty if nothing is, or not all was written.

    :raises InputError: if the file was changed, or is of another pilot.
    """
    from avalanche_vlm.studies.advice.advised import PILOT

    if not os.path.lexists(path):
        return {}
    try:
        kept = PILOT.read(path)
    except TruncatedError:
        return {}
    except InputError as error:
        raise InputError(f"{error}: remove it, and the pilot is run again") from error
    if not _asks_the_same(kept["request"], asked):
        raise InputError(f"{path} is the file of another pilot: remove it, and this one is run")
    return dict(kept)
