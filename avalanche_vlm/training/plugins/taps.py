"""Losses on the features of the strategy's own forward pass."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy


class FeatureTapPlugin(VLMPlugin):
    """Base of plugins that need the features of the minibatch, without encoding it again.

    After the forward pass :attr:`features` holds them, with their graph.
    """

    features: ForwardFeatures | None = None

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._disarm(strategy)

    def before_eval(self, strategy: Strategy, **kwargs: Any) -> None:
        self._disarm(strategy)

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._disarm(strategy)
        strategy.model.taps.append(self._keep)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        strategy.model.taps.remove(self._keep)

    def after_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        self.features = None  # and with it the graph

    def _disarm(self, strategy: Strategy) -> None:
        """Clear what a forward pass that raised has left."""
        self.features = None
        if self._keep in strategy.model.taps:
            strategy.model.taps.remove(self._keep)

    def _keep(self, features: ForwardFeatures) -> None:
        self.features = features
