"""Which row an evaluation belongs to."""

from __future__ import annotations

from typing import Any

from avalanche.evaluation import PluginMetric


class CountsSteps(PluginMetric):
    """Base of plugin metrics that count trained experiences: row 0 is before any, and an evaluation within training
    belongs to the row that the experience will end with.

    Avalanche's own counter advances only after its periodic evaluation at the end of an experience, which would file
    that evaluation under the row before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        """Experiences trained so far."""
        self.training = False
        """Whether one is being trained."""

    @property
    def row(self) -> int:
        """The row that an evaluation now belongs to."""
        return self.step + self.training

    def before_training_exp(self, strategy: Any) -> None:
        self.training = True

    def after_training_exp(self, strategy: Any) -> None:
        self.training = False
        self.step += 1

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to reset: the rows are the result."""
