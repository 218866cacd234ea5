"""Learning-rate schedules per step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from avalanche_vlm.errors import VLMWarning
from avalanche_vlm.memory.state import WORKING
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, iterations_of


def warmup_cosine(step: int, total: int, warmup: int, floor: float = 0.0) -> float:
    """Factor of the base learning rate at a step: linear warm-up, then half a cosine.

    :param step: 0 at the first update.
    :param total: number of updates.
    :param warmup: updates of warm-up.
    :param floor: factor at the end.

    >>> [round(warmup_cosine(step, 6, 2), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class WarmupCosinePlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Linear warm-up and cosine decay within every experience, set before each update.

    :param warmup: iterations of warm-up. A warm-up longer than the task is warned about: a task would end before its
        learning rate was ever reached.
    :param floor: factor of the base learning rate at the end of the experience.
    :param factors: factors of the base learning rate of single experiences, by their numbers from 0.
    """

    states: ClassVar = {"_base": WORKING, "_step": WORKING, "_total": WORKING}

    def __init__(self, warmup: int = 0, floor: float = 0.0, factors: Mapping[int, float] | None = None) -> None:
        super().__init__()
        self.factors = dict(factors or {})
        self.warmup = warmup
        self.floor = floor
        self._base: list[float] = []
        self._step = 0
        self._total = 0

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        groups = strategy.optimizer.param_groups
        self._base = self._base or [group["lr"] for group in groups]
        self._step, self._total = 0, iterations_of(strategy)
        if 0 < self._total <= self.warmup:
            warnings.warn(
                f"the warm-up of {self.warmup} iterations is not shorter than experience "
                f"{strategy.experience.current_experience} with {self._total}: the learning rate only rises there",
                VLMWarning,
                stacklevel=2,
            )

    def before_update(self, strategy: Strategy, **kwargs: Any) -> None:
        factor = warmup_cosine(self._step, self._total, self.warmup, self.floor)
        factor *= self.factors.get(strategy.experience.current_experience, 1.0)
        for group, base in zip(strategy.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * factor
        self._step += 1

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        for group, base in zip(strategy.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base
