"""``advise``: pilots on the user's stream, a recommendation and a plan."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.commands import inputs, store
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.evaluation.advice.constraints import Constraints
    from avalanche_vlm.evaluation.advice.pilot import Pilot, Scores
    from avalanche_vlm.models import VLM

SHARES = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0)
LEAST = 32
"""Training samples per task below which a pilot says nothing."""
MOST_TEST = 125
"""Test samples per task, and twice as many of class-labelled held-out sets, that pilots are scored on at most."""


def advise(options: Namespace) -> int:
    """Pilots within ``--minutes``, then ``advice.json`` and what it says; pilots that are there are kept."""
    from avalanche_vlm.evaluation.advice.document import document
    from avalanche_vlm.evaluation.advice.halving import Halving
    from avalanche_vlm.report import advice

    started = time.monotonic()
    out, constraints, warnings = Path(options.out), constraints_of(options), []
    if options.no_task_id and (sentence := _without_task_id(options)):
        warnings.append(sentence)
    with watched(options.quiet) as progress:
        pilots = Pilots(options, constraints, progress, started + 60 * options.minutes)
        asked = list(dict.fromkeys(inputs.names(options.recipes)))
        names, excluded = pilots.candidates(asked)
        halving = Halving(
            pilots.run,
            pilots.shares(),
            constraints,
            60 * options.minutes - (time.monotonic() - started),
            time.monotonic,
            pilots.cost,
        )
        halving.run(names)
    found = document(halving, pilots.changed_options, excluded)
    used = round((time.monotonic() - started) / 60, 2)
    found["warnings"] = warnings + found["warnings"]
    store.write_json(
        out / "advice.json",
        {"protocol": pilots.protocol(), "minutes": {"asked": options.minutes, "used": used}, "seeds": [options.seed]}
        | found,
    )
    advice.print_advice(found)
    print(f"{used:.1f} of {options.minutes:g} minutes; written to {out / 'advice.json'}")
    return 0


def constraints_of(options: Namespace) -> Constraints:
    """What the options ask for."""
    from avalanche_vlm.evaluation.advice.constraints import Constraints

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


class Pilots:
    """Runs pilots on the user's stream, or takes those that are there.

    :param options: of the command.
    :param deadline: in seconds of the monotonic clock.
    """

    def __init__(self, options: Namespace, constraints: Constraints, progress: Progress, deadline: float) -> None:
        self._options, self._constraints, self._progress = options, constraints, progress
        self._deadline = deadline
        self._model: VLM = inputs.make_model(options, options.seed)
        self._whole: VLMBenchmark = inputs.make_benchmark(options, self._model, options.seed)
        self._benchmark = scored_on_fewer(self._whole, options.seed)
        self._scores: Scores | None = None
        self._scoring = 0.0
        self.changed_options: dict[str, dict[str, Any]] = {}
        """Options of recipes that are not those of ``run``, by recipe."""

    def candidates(self, asked: list[str]) -> tuple[list[str], dict[str, str]]:
        """Recipes that can be tried, and why the others cannot. Fine-tuning, to compare with, is among the former.

        :raises InputError: for a recipe that does not exist.
        """
        from avalanche_vlm.evaluation.user_data import may_keep_pictures
        from avalanche_vlm.experiment import resources
        from avalanche_vlm.training import recipes

        excluded = {}
        for name in asked:
            recipes.get(name)
            try:
                given = resources(name, self._benchmark)
                if not self._constraints.raw_data:
                    built = recipes.build(name, model=copy.deepcopy(self._model), **given, **self._settings(name)[1])
                    if may_keep_pictures(built):
                        excluded[name] = "keeps samples of the user's (--no-raw-data)"
            except InputError as error:
                excluded[name] = str(error)
        return [name for name in asked if name not in excluded], excluded

    def shares(self) -> list[float]:
        """Shares of the data that leave every task enough to train on."""
        smallest = min(len(e.dataset) for e in self._benchmark.train_stream)
        return [share for share in SHARES if share * smallest >= LEAST] or [1.0]

    def cost(self, share: float) -> float:
        """Of training on a share, in a unit of its own."""
        from avalanche_vlm.evaluation.advice.pilot import training_cost

        samples = [len(e.dataset) for e in self._benchmark.train_stream]
        return training_cost(samples, self._settings("fine-tune")[0].batch_size, share)

    def protocol(self) -> dict[str, Any]:
        """What the advice is about."""
        request = inputs.request(self._options, "fine-tune", self._options.seed, *self._settings("fine-tune"))
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
        from avalanche_vlm.evaluation.advice.pilot import Pilot, run_pilot

        options, seed = self._options, self._options.seed
        settings, chosen = self._settings(recipe)
        request = {**inputs.request(options, recipe, seed, settings, chosen), "share": share}
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:12]
        path = Path(options.out) / "pilots" / recipe / f"{share:.3f}-{key}.json"
        kept = store.read_json(path)
        if isinstance(kept, dict) and kept.get("request") == request:
            self._progress.say(f"{recipe} on {share:.0%}: finished before, kept")
            return Pilot.from_json(kept["pilot"])
        label, tasks = f"{recipe} on {share:.0%}", len(self._benchmark.task_names)
        pretrained = self._pretrained()
        with self._progress.task(label, tasks) as advance:
            pilot = run_pilot(
                self._benchmark,
                recipe,
                share,
                pretrained=pretrained,
                model=copy.deepcopy(self._model),
                settings=settings,
                options=chosen,
                seed=seed,
                device=inputs.device_of(options),
                clock=time.monotonic,
                progress=_until(deadline - self._scoring, tasks, advance),
            )
        store.write_json(path, {"request": request, "pilot": pilot.as_json()})
        return pilot

    def _pretrained(self) -> Scores:
        from avalanche_vlm.evaluation.advice.pilot import Scores

        if self._scores is None:
            started = time.monotonic()
            self._scores = Scores(copy.deepcopy(self._model), self._benchmark)
            self._scoring = time.monotonic() - started
        return self._scores

    def _settings(self, recipe: str) -> tuple[Any, dict[str, Any]]:
        from avalanche_vlm.experiment import TrainSettings
        from avalanche_vlm.training import recipes

        fields, chosen = inputs.settings(self._options, recipe)
        within = self._constraints.budgeted(recipes.get(recipe).settings, chosen)
        self.changed_options[recipe] = {key: within[key] for key in within if within[key] != chosen.get(key)}
        return TrainSettings(**fields), within


def scored_on_fewer(benchmark: VLMBenchmark, seed: int, most: int = MOST_TEST) -> VLMBenchmark:
    """The benchmark with at most so many test samples per task, classes alike, and twice as many of class-labelled
    held-out sets. Captions stay, for R@1 among fewer is another figure."""
    import numpy as np
    from torch.utils.data import Subset

    from avalanche_vlm.benchmarks.scenario import HeldOutSet, VLMBenchmark
    from avalanche_vlm.evaluation.advice.pilot import balanced_order

    rng = np.random.default_rng(seed)

    def fewer(data: Any) -> Any:
        if benchmark.kind == "pairs" or len(data) <= most:
            return data
        return data.subset(sorted(balanced_order(np.array([int(y) for y in data.targets]), rng)[:most].tolist()))

    held_out = []
    for part in benchmark.held_out:
        if part.label_space is not None and len(part.dataset) > 2 * most:
            rows = sorted(rng.permutation(len(part.dataset))[: 2 * most].tolist())
            part = HeldOutSet(part.name, Subset(part.dataset, rows), part.label_space)
        held_out.append(part)
    return VLMBenchmark(
        benchmark.name,
        benchmark.kind,
        [e.dataset for e in benchmark.train_stream],
        [fewer(e.dataset) for e in benchmark.test_stream],
        label_space=benchmark.label_space,
        task_names=benchmark.task_names,
        held_out=held_out,
        reference=benchmark.reference,
        generator=benchmark.generator,
        data=benchmark.data,
        protocol=benchmark.protocol,
    )


def _until(deadline: float, tasks: int, advance: Callable[[int, int, int], None] | None) -> Callable[..., None]:
    """A progress callback that breaks a pilot off when it will not end before the deadline."""
    from avalanche_vlm.evaluation.advice.halving import OutOfTime

    started = time.monotonic()

    def progress(experience: int, iteration: int, iterations: int) -> None:
        now, done = time.monotonic(), (experience + iteration / iterations) / tasks
        # The first steps of a run are slow: no forecast from them alone.
        if now > deadline or (done > 0.2 and started + (now - started) / done > deadline):
            raise OutOfTime
        if advance is not None:
            advance(experience, iteration, iterations)

    return progress
