"""Moving averages of weights: the exponential one and CTP's compatible momentum."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from avalanche_vlm.compat.tensors import add_each_, lerp_each_, mul_each_
from avalanche_vlm.weights.average import State, like


@torch.no_grad()
def update_ema(mean: State, new: Mapping[str, torch.Tensor], decay: float = 0.995) -> None:
    """``mean <- decay * mean + (1 - decay) * new``, in place: the momentum encoder of MoCo (arXiv 1911.05722, eq. 2).

    The default is CTP's on its first task (arXiv 2308.07146, the authors' code).

    :param mean: floating-point tensors; changed.
    :param new: the latest weights, with at least the mean's names.
    :param decay: share of the mean that stays, in [0, 1]; 1 keeps the mean.
    :raises ValueError: for a decay outside.

    >>> mean = {"w": torch.tensor([4.0])}
    >>> update_ema(mean, {"w": torch.tensor([8.0])}, decay=0.75); mean["w"].item()
    5.0
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"the decay of a moving average lies in [0, 1], not {decay}")
    lerp_each_(list(mean.values()), like(new, mean), 1 - decay)


@torch.no_grad()
def compatible_momentum(
    momentum: State, new: Mapping[str, torch.Tensor], previous: Mapping[str, torch.Tensor], decay: float = 0.9
) -> None:
    """``m <- decay * m + (1 - decay) / 2 * (new + previous)``, in place: the teacher of CTP (arXiv 2308.07146) follows
    the model that trains and the one that the previous task left, with equal weights.

    With the default 0.9 it is ``.9 m + .05 new + .05 previous``, as in the authors' code.

    :param momentum: floating-point tensors; changed.
    :param new: the weights that train, with at least the momentum's names.
    :param previous: the weights at the end of the previous task, with at least the momentum's names.
    :param decay: share of the momentum that stays, in [0, 1].
    :raises ValueError: for a decay outside.

    >>> m = {"w": torch.tensor([1.0])}
    >>> compatible_momentum(m, {"w": torch.tensor([6.0])}, {"w": torch.tensor([0.0])}, decay=0.5)
    >>> m["w"].item()
    2.0
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"the decay of the compatible momentum lies in [0, 1], not {decay}")
    share = (1 - decay) / 2
    kept = list(momentum.values())
    mul_each_(kept, decay)
    for source in (new, previous):
        add_each_(kept, like(source, momentum), alpha=share)
