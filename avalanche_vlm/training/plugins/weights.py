"""Plugins that hold or average weights."""

from __future__ import annotations

from typing import Any, ClassVar

from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.penalty import quadratic_penalty
from avalanche_vlm.memory.state import KEPT, WORKING
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.weights.average import State, load, snapshot, update_running_mean


class AnchorPenaltyPlugin(VLMPlugin, supports_distributed=True):
    """Add the squared distance of the weights to where the task started (ZSCL, arXiv 2303.06628, eq. 7).

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
        strategy.loss += self.weight * quadratic_penalty(model_of(strategy).trainable_parameters(), self._anchor)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._anchor = {}  # the next task starts from the weights themselves: nothing is stored between tasks


class RunningMeanPlugin(VLMPlugin, supports_distributed=True):
    """End every task on the mean of the weights along its way (ZSCL's weight ensemble, arXiv 2303.06628, eq. 8).

    The first snapshot is the task's start; a further one is taken every ``interval`` iterations.

    :param interval: iterations between snapshots, at least 1.
    :raises InputError: if the interval is less.
    """

    states: ClassVar = {"_mean": KEPT, "_iterations": WORKING, "_count": WORKING}

    def __init__(self, interval: int = 100) -> None:
        super().__init__()
        if interval < 1:
            raise InputError(f"the interval between snapshots is 1 iteration or more, not {interval}")
        self.interval = interval
        self._mean: State = {}
        self._iterations = 0
        self._count = 0

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._mean, self._count, self._iterations = snapshot(model_of(strategy).trainable_parameters()), 1, 0

    def after_update(self, strategy: Strategy, **kwargs: Any) -> None:
        self._iterations += 1
        if self._iterations % self.interval == 0:
            update_running_mean(self._mean, model_of(strategy).trainable_parameters(), self._count)
            self._count += 1

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        # With fewer iterations than one interval there is nothing to average but the start: keep what was learned.
        if self._count > 1:
            load(model_of(strategy).trainable_parameters(), self._mean)
        self._mean = {}
