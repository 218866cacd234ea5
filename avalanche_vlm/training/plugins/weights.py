"""Plugins that hold or average weights."""

from __future__ import annotations

from typing import Any, ClassVar

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import KEPT, WORKING
from avalanche_vlm.training.penalties import add_penalty
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.strategies import took_step
from avalanche_vlm.weights.average import State, copy_into, snapshot, snapshot_due, update_running_mean


class AnchorPenaltyPlugin(VLMPlugin, supports_distributed=True):
    """Add the squared distance of the weights to where the task started (ZSCL, arXiv 2303.06628, eq. 7).

    It takes part in a step by :func:`~avalanche_vlm.training.penalties.add_penalty`.

    :param weight: weight of the penalty.
    """

    states: ClassVar = {"_anchor": WORKING}

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self._anchor: State = {}

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._anchor = snapshot(model_of(strategy).trainable_parameters())

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        add_penalty(strategy, self._anchor, factor=self.weight)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._anchor = {}  # the next task starts from the weights themselves: nothing is stored between tasks


class RunningMeanPlugin(VLMPlugin, supports_distributed=True):
    """End every task on the mean of the weights along its way (ZSCL's weight ensemble, arXiv 2303.06628, eq. 8).

    The snapshots are those of the authors' code: the task's start, then the weights after the updates ``first, first +
    interval, first + 2 interval, ...`` (:func:`~avalanche_vlm.weights.average.snapshot_due`). With its 1001 updates,
    ``first=1`` and ``interval=100`` these are 12: after 0, 1, 101, ..., 1001 updates.

    Differs from the code where a task has no more than ``interval`` updates: the mean there is of the start and of what
    is one update away from it, and here the task ends on what it learned.

    :param interval: updates between two snapshots, at least 1.
    :param first: number of the update after which the first snapshot besides the start is taken, at least 1; equal to
        the interval it makes snapshots evenly spaced from the start on, as equation 8 has them.
    :raises InputError: if one of them is less.
    """

    states: ClassVar = {"_mean": KEPT, "_iterations": WORKING, "_count": WORKING}

    def __init__(self, interval: int = 100, first: int = 1) -> None:
        super().__init__()
        if interval < 1:
            raise InputError(f"the interval between snapshots is 1 or more, not {interval}")
        if first < 1:
            raise InputError(f"the first snapshot is taken after update 1 or later, not {first}")
        self.interval, self.first = interval, first
        self._mean: State = {}
        self._iterations = 0
        self._count = 0

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._mean, self._count, self._iterations = snapshot(model_of(strategy).trainable_parameters()), 1, 0

    def after_update(self, strategy: Strategy, **kwargs: Any) -> None:
        if not took_step(strategy):
            return
        self._iterations += 1
        if snapshot_due(self._iterations, self.interval, self.first):
            update_running_mean(self._mean, model_of(strategy).trainable_parameters(), self._count)
            self._count += 1

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._iterations > self.interval and self._count > 1:
            copy_into(model_of(strategy).trainable_parameters(), self._mean)
        self._mean = {}
