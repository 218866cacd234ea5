"""What a run has come to so far beside its scores: seconds, rows that were reported, costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from avalanche_vlm._host import wait_for_devices
from avalanche_vlm.evaluation.ledger import Ledger
from avalanche_vlm.evaluation.results import Timing
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared, StateDict, Stateful
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy

Clock = Callable[[], float]


class Stopwatch(Stateful):
    """Seconds of one kind of work, those of the work that is being done included.

    A state that is taken meanwhile has the seconds up to then. Whoever goes on from it counts on from there: what was
    done after it was taken, and is done again, counts once, and what it took to get back there does not count.

    :param clocks: functions that tell the time in seconds, by name; one of them is called ``wall``.
    """

    states: ClassVar[Mapping[str, Declared]] = {"_spent": WORKING, "_since": TRANSIENT}

    def __init__(self, **clocks: Clock) -> None:
        self._clocks = clocks or {"wall": time.perf_counter}
        self._spent = dict.fromkeys(self._clocks, 0.0)
        self._since: dict[str, float] | None = None

    def seconds(self, clock: str = "wall") -> float:
        """Seconds so far.

        :param clock: name of the clock that they are told by.
        """
        running = 0.0 if self._since is None else self._clocks[clock]() - self._since[clock]
        return self._spent[clock] + running

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is done within counts; the watch runs once at a time."""
        self._since = self._now()
        try:
            yield
        finally:
            self._lap()
            self._since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within does not count, be the watch running or not."""
        self._lap()
        runs, self._since = self._since is not None, None
        try:
            yield
        finally:
            self._since = self._now() if runs else None

    def state_dict(self) -> StateDict:
        self._lap()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self._since is not None:
            self._since = self._now()

    def _lap(self) -> None:
        """Add what has run since the watch was started, or looked at."""
        if self._since is not None:
            now = self._now()
            self._spent = {name: spent + now[name] - self._since[name] for name, spent in self._spent.items()}
            self._since = now

    def _now(self) -> dict[str, float]:
        wait_for_devices()  # what a device still does belongs to what was begun
        return {name: clock() for name, clock in self._clocks.items()}


class RunAccount(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Keeps the account of a run, and notes what its plugins store when an experience ends. It goes after them.

    :param ledger: the ledger of the run.
    :param plugins: plugins whose stored bytes count.
    """

    states: ClassVar[Mapping[str, Declared]] = {
        "ledger": WORKING,
        "resumed": TRANSIENT,
        "seconds_before": TRANSIENT,
        "rows": WORKING,
        "training": WORKING,
        "evaluation": WORKING,
        "whole": WORKING,
    }

    def __init__(self, ledger: Ledger, plugins: Sequence[Any]) -> None:
        super().__init__()
        self.ledger = ledger
        self.rows = 0
        """Rows of the performance matrix that are complete and were reported."""
        self.resumed = False
        """Whether it goes on from an earlier process."""
        self.seconds_before = 0.0
        """What earlier processes took for what it goes on from."""
        self.training = Stopwatch(wall=time.perf_counter, cpu=time.process_time)
        self.evaluation = Stopwatch()
        self.whole = Stopwatch()
        """Everything, from the first evaluation on."""
        self._plugins = plugins

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        # Before the state of the experience's end is taken: a strategy that is made anew has another optimizer.
        with self.training.paused():
            shards = getattr(strategy, "shards", None)
            numbers = torch.Tensor.numel if shards is None else shards.numbers
            self.ledger.after_experience(self._plugins, strategy.optimizer, numbers)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.resumed, self.seconds_before = True, round(self.whole.seconds(), 2)

    def timing(self) -> Timing:
        """Seconds so far, to a hundredth."""
        return {
            "train_seconds": round(self.training.seconds(), 2),
            "train_cpu_seconds": round(self.training.seconds("cpu"), 2),
            "eval_seconds": round(self.evaluation.seconds(), 2),
        }
