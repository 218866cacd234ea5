"""``advise``: pilots on the user's stream, a recommendation and a plan."""

from __future__ import annotations

import hashlib
import json
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.commands import inputs, store
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import percent

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.studies.advice.constraints import Constraints
    from avalanche_vlm.studies.advice.pilot import Pilot
    from avalanche_vlm.training.settings import TrainSettings


def advise(options: Namespace) -> int:
    """Pilots within ``--minutes``, then ``advice.json`` and what it says; pilots that are there are kept."""
    from avalanche_vlm.report import advice
    from avalanche_vlm.studies.advice.session import ask

    started = time.monotonic()
    out, warnings = Path(options.out), []
    if options.no_task_id and (sentence := _without_task_id(options)):
        warnings.append(sentence)
    with watched(options.quiet) as progress:
        stream = Stream(options, progress)
        found = ask(stream.pilots, stream.run, inputs.asked(options), started + 60 * options.minutes)
    used = round((time.monotonic() - started) / 60, 2)
    found["warnings"] = warnings + found["warnings"]
    store.write_json(
        out / "advice.json",
        {"protocol": stream.protocol(), "minutes": {"asked": options.minutes, "used": used}, "seeds": [options.seed]}
        | found,
    )
    advice.print_advice(found)
    print(f"{used:.1f} of {options.minutes:g} minutes; written to {out / 'advice.json'}")
    return 0


def constraints_of(options: Namespace) -> Constraints:
    """What the options ask for."""
    from avalanche_vlm.studies.advice.constraints import Constraints

    return Constraints(
        options.max_bytes,
        not options.no_raw_data,
        not options.no_task_id,
        options.max_train_seconds,
        options.keep_zero_shot,
    )


def _without_task_id(options: Namespace) -> str | None:
    """Let all classes compete where nothing else was asked for.

    :raises InputError: if the label space that was asked for is one that needs the task id.
    """
    if options.label_space == "task":
        raise InputError("--label-space task needs the task id at prediction, which --no-task-id forbids")
    if options.label_space or (not options.data and options.benchmark in inputs.WITHOUT_TASKS):
        return None
    options.label_space = "union"
    return "all classes compete (--label-space union): under --no-task-id no prediction knows its task"


class Stream:
    """The user's stream, and its pilots: run, or taken from their files.

    :param options: of the command.
    """

    def __init__(self, options: Namespace, progress: Progress) -> None:
        from avalanche_vlm.studies.advice.pilots import Pilots

        self._options, self._progress = options, progress
        model = inputs.make_model(options, options.seed)
        self._benchmark: VLMBenchmark = inputs.make_benchmark(options, model, options.seed)
        limits, device = constraints_of(options), inputs.device_of(options)
        self.pilots = Pilots(self._benchmark, model, self._settings, limits, seed=options.seed, device=device)

    def protocol(self) -> dict[str, Any]:
        """What the advice is about."""
        request = inputs.request(self._options, "fine-tune", self._options.seed, *self.pilots.settings("fine-tune"))
        request = {key: value for key, value in request.items() if not key.startswith("recipe")}
        space = self._benchmark.label_space
        return {
            **request,
            **self._benchmark.protocol,
            "benchmark": self._benchmark.name,
            "label_space": space.visible if space else None,
            "tasks": list(self._benchmark.task_names),
            "unit": "percent",
        }

    def run(self, recipe: str, share: float, deadline: float) -> Pilot:
        """A pilot, from its file if it was run before."""
        from avalanche_vlm.studies.advice.pilot import Pilot

        options = self._options
        request = inputs.request(options, recipe, options.seed, *self.pilots.settings(recipe))
        request["share"] = share
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
        path = Path(options.out) / "pilots" / recipe / f"{share:.3f}-{key}.json"
        label, kept = f"{recipe} on {percent(share)}", store.read_json(path)
        if isinstance(kept, dict) and kept.get("request") == request:
            self._progress.say(f"{label}: finished before, kept")
            return Pilot.from_json(kept["pilot"])
        with self._progress.task(label, len(self._benchmark.task_names)) as advance:
            pilot = self.pilots.run(recipe, share, deadline, advance)
        store.write_json(path, {"request": request, "pilot": pilot.as_json()})
        return pilot

    def _settings(self, recipe: str) -> tuple[TrainSettings, dict[str, Any]]:
        from avalanche_vlm.training.settings import TrainSettings

        fields, chosen = inputs.settings(self._options, recipe)
        return TrainSettings(**fields), chosen
