"""Penalties on weights in the steps of a strategy."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from avalanche_vlm.losses.penalty import add_quadratic_penalty, quadratic_penalty
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.strategies import VLMMixin


def add_penalty(
    strategy: Strategy,
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None = None,
    factor: float = 1.0,
) -> None:
    """In ``before_backward``: have ``factor`` times a :func:`~avalanche_vlm.losses.penalty.quadratic_penalty` take part
    in the step at hand.

    A strategy with :class:`~avalanche_vlm.training.strategies.VLMMixin` adds its gradient to the others as soon as its
    backward pass is over, before any plugin looks at them, and its value to ``strategy.loss``: in one pass over the
    weights, and with no copy of them (:func:`~avalanche_vlm.losses.penalty.add_quadratic_penalty`). Avalanche's own
    have no such place, and the penalty is a term of their loss. Of weights that rest there is none.

    :param strategy: the strategy, whose model is a VLM.
    :param anchor: weights to stay near, by name; those of parameters that do not train are passed over.
    :param importance: how much each number counts, at least the anchor's names; None for 1.
    :param factor: weight of the penalty.
    """
    weights = model_of(strategy).trainable_parameters()
    anchor = {name: where for name, where in anchor.items() if name in weights}
    if not anchor:
        return
    if isinstance(strategy, VLMMixin):
        strategy.joining.append(lambda: add_quadratic_penalty(weights, anchor, importance, factor))
    else:
        strategy.loss += factor * quadratic_penalty(weights, anchor, importance)
