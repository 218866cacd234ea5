"""Losses on the features of the strategy's own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of

Seen = TypeVar("Seen")


class Tap(Generic[Seen]):
    """Listens to one forward pass, and keeps what that says last.

    A pass that raises leaves a tap armed: :meth:`disarm` it wherever something new begins.

    >>> listeners = []
    >>> tap = Tap()
    >>> tap.arm(listeners)
    >>> for listener in listeners:
    ...     listener("features")
    >>> tap.close(listeners)
    >>> tap.seen, listeners
    ('features', [])
    """

    def __init__(self) -> None:
        self.seen: Seen | None = None

    def arm(self, listeners: list[Callable[[Seen], None]]) -> None:
        """Listen from now on, and forget what was heard before.

        :param listeners: the functions that a forward pass calls.
        """
        self.disarm(listeners)
        listeners.append(self._take)

    def close(self, listeners: list[Callable[[Seen], None]]) -> None:
        """Listen no more, and keep what was heard.

        :param listeners: the functions that a forward pass calls.
        """
        if self._take in listeners:
            listeners.remove(self._take)

    def disarm(self, listeners: list[Callable[[Seen], None]]) -> None:
        """Listen no more, and forget what was heard.

        :param listeners: the functions that a forward pass calls.
        """
        self.close(listeners)
        self.seen = None

    def _take(self, seen: Seen) -> None:
        self.seen = seen


class FeatureTapPlugin(VLMPlugin, supports_distributed=True):
    """Base of plugins that need the features of the minibatch, without encoding it again.

    After the forward pass :attr:`features` are those of it, with their graph.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tap: Tap[ForwardFeatures] = Tap()

    @property
    def features(self) -> ForwardFeatures | None:
        """What the forward pass of this iteration has encoded; None before it and after the backward pass."""
        return self._tap.seen

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.disarm(model_of(strategy).taps)

    def before_eval(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.disarm(model_of(strategy).taps)

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.arm(model_of(strategy).taps)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.close(model_of(strategy).taps)

    def after_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.disarm(model_of(strategy).taps)  # and with what was heard the graph goes
