"""Losses on the features of the strategy's own forward pass."""

from __future__ import annotations

from typing import Any

from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.models.taps import ForwardFeatures


class FeatureTapPlugin(SupervisedPlugin):
    """Base of plugins that need the features of the minibatch, without encoding it again.

    After the forward pass :attr:`features` holds them, with their graph.
    """

    features: ForwardFeatures | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._disarm(strategy)

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        self._disarm(strategy)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self._disarm(strategy)
        strategy.model.taps.append(self._keep)

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.model.taps.remove(self._keep)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.features = None  # and with it the graph

    def _disarm(self, strategy: Any) -> None:
        """Clear what a forward pass that raised has left."""
        self.features = None
        if self._keep in strategy.model.taps:
            strategy.model.taps.remove(self._keep)

    def _keep(self, features: ForwardFeatures) -> None:
        self.features = features
