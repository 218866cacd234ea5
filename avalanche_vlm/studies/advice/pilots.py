"""Pilots on a stream: which recipes can be tried there, on which shares of its data, and what they come to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from avalanche_vlm.benchmarks.reading import reading_by
from avalanche_vlm.benchmarks.scenario import VLMBenchmark, size_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.chance import guesses
from avalanche_vlm.evaluation.ledger import needs_task_id
from avalanche_vlm.memory.state import stateful_parts, undeclared
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.advice.constraints import KEEPS_RAW_DATA, Constraints, may_keep_raw_data
from avalanche_vlm.studies.advice.elapsed import Elapsed
from avalanche_vlm.studies.advice.halving import OutOfTime
from avalanche_vlm.studies.advice.parts import scored_on_fewer
from avalanche_vlm.studies.advice.pilot import BEFORE, Pilot, Scores, run_pilot, training_cost
from avalanche_vlm.studies.feasible import refuse_untrainable, resources
from avalanche_vlm.training import recipes
from avalanche_vlm.training.checkpoint import CheckpointPlugin
from avalanche_vlm.training.settings import TrainSettings

SHARES = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1.0)
LEAST = 32
"""Training samples per task below which a pilot says nothing."""
MOST_TEST = 125
"""Test samples per task, and twice as many of held-out sets, that pilots are scored on at most; of pairs all, for hit@1
among fewer is another figure."""

Settings = Callable[[str], tuple[TrainSettings, Mapping[str, Any]]]
"""From a recipe's name to the settings of its training on all data, and its options."""


class Pilots:
    """Runs pilots on a stream, within the constraints.

    :param benchmark: the stream; pilots are scored on a part of its test samples.
    :param model: pretrained. Pilots train copies of it.
    :param settings: function from a recipe's name to its settings and options on all data.
    :param constraints: what a recipe must not cost.
    :param seed: seed of everything that is drawn, 0 or more.
    :param device: where to run.
    :param clock: tells the time that the advice has taken; None for a clock that starts now.
    :raises InputError: if predictions on the stream ask for the task id, and that is not allowed.
    """

    def __init__(
        self,
        benchmark: VLMBenchmark,
        model: VLM,
        settings: Settings,
        constraints: Constraints,
        *,
        seed: int = 0,
        device: str | torch.device = "cpu",
        clock: Elapsed | None = None,
    ) -> None:
        if not constraints.task_id and needs_task_id(model, benchmark):
            raise InputError(
                f"on {benchmark.name} the classes of the sample's own task compete, so every prediction asks for the "
                'task id, which is not allowed: build the stream with label_space="union"'
            )
        self.constraints = constraints
        self.clock = clock or Elapsed()
        self.changed_options: dict[str, dict[str, Any]] = {}
        """Options of recipes that the constraints changed, by recipe."""
        self._benchmark = scored_on_fewer(benchmark, seed, MOST_TEST)
        self.task_names = benchmark.task_names
        self.guesses = guesses(self._benchmark)
        """What guessing comes to on every task, on the test samples that pilots are scored on."""
        self._model, self._given, self._seed, self._device = model, settings, seed, device
        self._scores: Scores | None = None
        self._scoring = 0.0

    def candidates(self, asked: Iterable[str]) -> tuple[list[str], dict[str, str]]:
        """Recipes that can be tried, and why the others cannot.

        :raises InputError: for a recipe that does not exist.
        """
        names, excluded = list(dict.fromkeys(asked)), {}
        for name in names:
            recipes.get(name)
            try:
                given = resources(name, self._benchmark)
                small = min(self._samples()) < LEAST
                if small or not self.constraints.raw_data:
                    train, options = self.settings(name)
                    built = recipes.build(name, model=copy.deepcopy(self._model), **given, **options)
                    refuse_untrainable(name, self._benchmark, built, train)
                if not self.constraints.raw_data:
                    if any(part.may_keep_raw_data() for part in stateful_parts(built)):
                        excluded[name] = KEEPS_RAW_DATA
                    elif unknown := undeclared(built):
                        excluded[name] = may_keep_raw_data(unknown)
            except InputError as error:
                excluded[name] = str(error)
        return [name for name in names if name not in excluded], excluded

    def settings(self, recipe: str) -> tuple[TrainSettings, dict[str, Any]]:
        """Of a recipe on all data, its memory within the constraints."""
        train, chosen = self._given(recipe)
        within = self.constraints.budgeted(recipes.get(recipe).settings, chosen)
        self.changed_options[recipe] = {key: within[key] for key in within if within[key] != chosen.get(key)}
        return train, within

    def shares(self) -> list[float]:
        """Shares of the data that leave every task enough to train on, ascending."""
        smallest = min(self._samples())
        return [share for share in SHARES if share * smallest >= LEAST] or [1.0]

    def cost(self, share: float) -> float:
        """Of training on a share, in a unit of its own."""
        return training_cost(self._samples(), self.settings("fine-tune")[0].batch_size, share)

    def run(
        self,
        recipe: str,
        share: float,
        deadline: float,
        advance: Callable[[int, int, int], None] | None = None,
        checkpoint: CheckpointPlugin | None = None,
        on_resume: Callable[[CheckpointPlugin], None] | None = None,
    ) -> Pilot:
        """A pilot.

        :param recipe: name of the recipe.
        :param share: share of the training data, in (0, 1].
        :param deadline: time on ``clock``, in seconds; looked at in every iteration of the training.
        :param advance: called as ``(experience, iteration, iterations)``.
        :param checkpoint: writes the pilot to its folder meanwhile, and has it go on there; what it took before counts.
        :param on_resume: called with that plugin before an interrupted pilot goes on.
        :raises OutOfTime: when it will not end before the deadline.
        :raises InputError: if the recipe cannot run.
        """
        train, options = self.settings(recipe)
        pretrained = self._pretrained()

        def resumed(plugin: CheckpointPlugin) -> None:
            self.clock.add(float(plugin.about["seconds"]))
            if on_resume is not None:
                on_resume(plugin)

        return run_pilot(
            self._benchmark,
            recipe,
            share,
            pretrained=pretrained,
            model=copy.deepcopy(self._model),
            settings=train,
            options=options,
            seed=self._seed,
            device=self._device,
            clock=self.clock,
            progress=self._until(deadline - self._scoring, advance),
            checkpoint=checkpoint,
            on_resume=resumed,
        )

    def before_training(self) -> tuple[Scores, float]:
        """The pretrained model's scores, and the seconds that they took: for pilots in other processes."""
        return self._pretrained(), self._scoring

    def begin_with(self, scores: tuple[Scores, float]) -> None:
        """Take what :meth:`before_training` gave elsewhere.

        :param scores: the scores, and their seconds.
        """
        self._scores, self._scoring = scores

    def check(self, pilot: Pilot, where: object) -> None:
        """Refuse a pilot that was scored on other samples than this stream's.

        :param pilot: a pilot that was run before.
        :param where: where it is from, for the error.
        :raises InputError: naming the part.
        """
        tests = [len(experience.dataset) for experience in self._benchmark.test_stream]
        if (there := [len(hits) for hits in pilot.tasks]) != tests:
            raise InputError(f"{where} is damaged: pilot.tasks has scores of {there} samples, and there are {tests}")
        sets = {of.name: size_of(of.dataset) for of in self._benchmark.held_out} or {BEFORE: sum(tests[1:])}
        kept = {name: len(changes) for name, changes in pilot.kept.items()}
        if kept != {name: number for name, number in sets.items() if number}:
            raise InputError(f"{where} is damaged: pilot.kept has changes of {kept} samples, and there are {sets}")

    def _samples(self) -> list[int]:
        return [len(experience.dataset) for experience in self._benchmark.train_stream]

    def _pretrained(self) -> Scores:
        if self._scores is None:
            started = self.clock()
            with reading_by(self.settings("fine-tune")[0].num_workers):
                self._scores = Scores(copy.deepcopy(self._model).to(self._device), self._benchmark)
            # A pilot's own scores will take as long, after its training.
            self._scoring = self.clock() - started
        return self._scores

    def _until(self, deadline: float, advance: Callable[[int, int, int], None] | None) -> Callable[..., None]:
        """A progress callback that breaks a pilot off when it will not end before the deadline."""
        started, tasks, last = self.clock(), len(self._benchmark.task_names), (0, 0)

        def progress(experience: int, iteration: int, iterations: int) -> None:
            nonlocal last
            now, done = self.clock(), (experience + iteration / iterations) / tasks
            # The first steps of a run are slow: no forecast from them alone, nor while it is evaluated.
            if (experience, iteration) != last and (
                now > deadline or (done > 0.2 and started + (now - started) / done > deadline)
            ):
                raise OutOfTime
            last = experience, iteration
            if advance is not None:
                advance(experience, iteration, iterations)

        return progress
