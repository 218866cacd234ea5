"""What our plugin metrics share: which row an evaluation belongs to, declared figures, declared state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from avalanche.evaluation import PluginMetric

from avalanche_vlm.evaluation.declaration import Figure
from avalanche_vlm.memory.state import WORKING, Declared, Stateful
from avalanche_vlm.training.protocol import Strategy


class VLMMetric(PluginMetric[Any], Stateful):
    """Base of plugin metrics that count trained experiences: row 0 is before any, and an evaluation within training
    belongs to the row that the experience will end with.

    Avalanche's own counter advances only after its periodic evaluation at the end of an experience, which would file
    that evaluation under the row before.

    **A metric of your own** derives from this class, declares what it measures in :attr:`figures`, and gives the values
    in :meth:`values`. Passed to ``run_experiment(metrics=[...])`` the figures stand in ``result.json`` (their values
    under ``metrics``, their declarations under ``figures``), in the table, in ``results.csv``, in ``summary.json`` and
    in the report. Its accumulators over samples are ``torchmetrics`` metrics, whose states say how they reduce over
    processes; its other state is declared in ``states`` (:class:`~avalanche_vlm.memory.state.Stateful`).
    """

    states: ClassVar[Mapping[str, Declared]] = {"step": WORKING, "training": WORKING}

    figures: Sequence[Figure] = ()
    """Figures that the metric adds to a result; none by default."""

    reads_weights: ClassVar[bool] = False
    """Whether it reads the towers' weights or gradients, which are in parts where a training shards them."""

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

    def values(self) -> Mapping[str, float | None]:
        """The value of every figure in :attr:`figures` by its name, in the declared unit; None where there is none."""
        return {}

    def before_training_exp(self, strategy: Strategy) -> Any:
        self.training = True

    def after_training_exp(self, strategy: Strategy) -> Any:
        self.training = False
        self.step += 1

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to reset: the rows are the result."""

    def result(self, *args: Any, **kwargs: Any) -> Any:
        """The values of the declared figures; a subclass may give more."""
        return dict(self.values())

    def __str__(self) -> str:
        return type(self).__name__
