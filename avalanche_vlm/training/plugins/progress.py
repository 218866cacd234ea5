"""Telling whoever watches how far a training is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from avalanche_vlm.memory.state import WORKING
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, iterations_of


class ProgressPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Reports every training iteration, and the last one again at every iteration of an evaluation, which can take
    longer than the training: whoever is told now and then would else hear nothing.

    :param callback: called as ``callback(experience, iteration, iterations)``, the first from 0 and the second from 1,
        or 0 before the first training; None reports nothing.
    """

    states: ClassVar = {"_iteration": WORKING, "_place": WORKING}

    def __init__(self, callback: Callable[[int, int, int], None] | None) -> None:
        super().__init__()
        self._callback = callback
        self._iteration = 0
        self._place = (0, 0, 1)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._iteration = 0

    def after_training_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        self._iteration += 1
        if self._callback is not None:
            self._place = strategy.experience.current_experience, self._iteration, iterations_of(strategy)
            self._callback(*self._place)

    def after_eval_iteration(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._callback is not None:
            self._callback(*self._place)
