"""Trainings that are killed at a chosen moment, and what they end with when they go on."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from avalanche.training.plugins import EvaluationPlugin
from mini import shallow
from quick import LESS

from avalanche_vlm.benchmarks import VLMBenchmark
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.models import VLM
from avalanche_vlm.training import CheckpointPlugin, VLMNaive, criterion_for, recipes, resume
from avalanche_vlm.training.checkpoint.contents import strategy_state
from avalanche_vlm.training.plugins import WarmupCosinePlugin
from avalanche_vlm.training.plugins.base import VLMPlugin

EVENTS = (
    *("before_training", "before_train_dataset_adaptation", "before_training_exp", "before_training_epoch"),
    *("before_training_iteration", "before_forward", "after_forward", "before_backward", "after_backward"),
    *("before_update", "after_update", "after_training_iteration", "after_training_epoch", "after_training_exp"),
    *("after_training", "before_eval", "before_eval_exp", "before_eval_iteration", "after_eval_iteration"),
    *("after_eval_exp", "after_eval"),
)


class Killed(BaseException):
    """Nobody catches it but the test."""


class Killer(VLMPlugin):
    """Kills a training at the n-th of an event; without an event it lets it live.

    :param event: name of a callback.
    :param number: which of its calls, from 1 on.
    :param deed: what it does then instead of killing.
    """

    states: ClassVar = {}

    def __init__(self, event: str | None = None, number: int = 1, deed: Callable[[Any], None] | None = None) -> None:
        super().__init__()
        self.event, self.left, self.deed = event, number, deed
        self.heard: list[str] = []
        self.asks: tuple[str, int] | None = None

    def hear(self, event: str, strategy: Any) -> None:
        self.heard.append(event)
        if self.asks is not None and (event, self.heard.count(event)) == self.asks:
            next(p for p in strategy.plugins if isinstance(p, CheckpointPlugin)).request()
        if event == self.event:
            self.left -= 1
            if self.left == 0:
                if self.deed is None:
                    raise Killed
                self.deed(strategy)


def _listener(event: str) -> Callable:
    inherited = getattr(VLMPlugin, event, None)

    def hear(self: Killer, strategy: Any, **kwargs: Any) -> None:
        self.hear(event, strategy)
        if inherited is not None:
            inherited(self, strategy, **kwargs)

    return hear


for _event in EVENTS:
    setattr(Killer, _event, _listener(_event))


class Training:
    """A script: it makes everything anew each time that it is started.

    :param benchmark: what is trained.
    :param make_plugins: makes the plugins on a model.
    :param base: class of the strategy.
    :param epochs: epochs per experience.
    :param metrics: makes further metrics.
    :param options: options of the strategy.
    :param training: options of ``train``.
    """

    def __init__(
        self,
        benchmark: VLMBenchmark,
        make_plugins: Callable[[VLM], Sequence[Any]] = lambda model: [],
        *,
        base: Callable = VLMNaive,
        epochs: int = 1,
        minutes: float | None = 0,
        metrics: Callable[[], list[Any]] = lambda: [PerformanceMatrix()],
        evaluate: bool = True,
        options: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        together: bool = False,
        also: Callable[[], dict[str, Any]] = dict,
        strict: bool = True,
        signals: bool = False,
    ) -> None:
        self.benchmark, self.make_plugins, self.base, self.epochs = benchmark, make_plugins, base, epochs
        self.minutes, self.metrics, self.evaluate = minutes, metrics, evaluate
        self.options, self.training, self.together = options or {}, training or {}, together
        self.also, self.strict, self.signals = also, strict, signals
        self.started_from: int | None = None

    def make(self, folder: Path, killer: Killer) -> Any:
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        model = shallow()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = EvaluationPlugin(*self.metrics(), loggers=[])
        optimizer = self.options.get("optimizer", lambda p: torch.optim.AdamW(p, lr=1e-3))(model.parameters())
        return self.base(
            model=model,
            criterion=criterion_for(self.benchmark.kind, model),
            train_epochs=self.epochs,
            plugins=[
                *self.make_plugins(model),
                WarmupCosinePlugin(1),
                killer,
                CheckpointPlugin(folder, minutes=self.minutes, also=self.also(), strict=self.strict),
            ],
            evaluator=evaluator,
            **{"train_mb_size": 16, "eval_mb_size": 32} | self.options | {"optimizer": optimizer},
        )

    def run(
        self,
        folder: Path,
        event: str | None = None,
        number: int = 1,
        deed: Callable[[Any], None] | None = None,
        asks: int | None = None,
    ) -> dict[str, Any] | None:
        """Run the script until it ends or is killed.

        :param folder: its checkpoints.
        :param event: where it is killed; None lets it end.
        :param number: at which of these events.
        :param deed: what happens there instead.
        :param asks: after which of all iterations a checkpoint is asked for; None for none.
        :return: everything that it ends with; None if it was killed.
        """
        self.killer = killer = Killer(event, number, deed)
        killer.asks = None if asks is None else ("after_training_iteration", asks)
        strategy = self.make(folder, killer)
        self.plugin = next(p for p in strategy.plugins if isinstance(p, CheckpointPlugin))
        try:
            with self.plugin.on_signals() if self.signals else nullcontext():
                self._train(strategy, folder)
        except Killed:
            return None
        return strategy_state(strategy, {}, within=False, strict=self.strict)

    def _train(self, strategy: Any, folder: Path) -> None:
        stream = self.benchmark.train_stream
        self.started_from = start = resume(strategy, folder)
        if self.together:
            strategy.train(stream[start:], **self.training)
            return
        for experience in stream[start:]:
            strategy.train(experience, **self.training)
            if self.evaluate:
                strategy.eval(self.benchmark.test_stream)


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Every tensor bit for bit, and everything else."""
    assert sorted(first.keys() ^ second.keys()) == []
    for name, entry in first.items():
        other = second[name]
        if isinstance(entry, torch.Tensor):
            assert entry.dtype == other.dtype and torch.equal(entry.cpu(), other.cpu()), name
        else:
            assert json.dumps(entry) == json.dumps(other), name


def plugins_of(name: str, benchmark: VLMBenchmark, model: VLM) -> list[Any]:
    """A recipe's plugins, with options that make it quick."""
    chosen = recipes.get(name)
    resources = {what: getattr(benchmark, what) for what in chosen.takes}
    options = {"max_bytes": 60_000} if "max_bytes" in chosen.settings else {}
    return recipes.build(name, model=model, **resources, **options, **LESS.get(name, {}))
