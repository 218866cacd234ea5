"""Whether an optimizer's step can be one kernel for all weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch

_DEVICES = ("cpu", "cuda")
"""Where torch has fused forms of AdamW, Adam and SGD in every version that this package takes."""


def can_be_fused(weights: Iterable[torch.Tensor]) -> bool:
    """Whether torch's optimizers can take ``fused=True`` for these weights, which is four to eight times as fast as its
    loop over tensors on a CPU; ``fused=can_be_fused(weights) or None`` leaves the choice to torch where they cannot.
    Fused steps raise no version counters of torch's own accord: :mod:`avalanche_vlm.weights.versions` does.

    :param weights: weights that an optimizer is to hold.

    >>> can_be_fused([torch.zeros(2)]), can_be_fused([torch.zeros(2, dtype=torch.long)])
    (True, False)
    """
    return all(weight.device.type in _DEVICES and weight.is_floating_point() for weight in weights)
