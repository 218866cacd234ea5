"""Adapters of which every sample has others, at once and without the host's knowing which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.models.modules.adapter import Adapter


def run_together(modules: nn.ModuleList | Sequence[nn.Module]) -> bool:
    """Whether :func:`chosen_adapters` can run these modules: plain adapters of one kind.

    :param modules: what samples choose from.
    """
    first, *others = modules
    return _kind(first) is not None and all(_kind(other) == _kind(first) for other in others)


def _kind(module: nn.Module) -> tuple[Any, ...] | None:
    """What adapters that run together have in common; None for what is no plain adapter."""
    if type(module) is not Adapter or module.norm is not None or isinstance(module.scale, nn.Parameter):
        return None
    return module.down.weight.shape, module.scale, module.dropout, module.training


def chosen_adapters(
    x: torch.Tensor, choice: torch.Tensor, weights: torch.Tensor, adapters: Any, like: torch.Tensor
) -> torch.Tensor:
    """The weighted sum of what each sample's adapters make of it.

    Every sample gets copies of the weights that it has chosen, so that all shapes are known beforehand. The sum over an
    adapter's own samples alone would be the same work with less memory, but how many these are only the device knows.

    :param x: tokens ``[B, L, D]``.
    :param choice: which adapters a sample has, int64 ``[B, k]``, each once.
    :param weights: factors of their outputs ``[B, k]``.
    :param adapters: the adapters, of one kind (:func:`run_together`).
    :param like: what the sum looks like, ``[B, L, D]``.
    :return: the sum ``[B, L, D]``. An adapter that nobody chose has a gradient of zeros.

    >>> adapters = [Adapter(2, bottleneck=3) for _ in range(2)]
    >>> x = torch.ones(1, 4, 2)
    >>> chosen_adapters(x, torch.tensor([[1]]), torch.ones(1, 1), adapters, x).shape
    torch.Size([1, 4, 2])
    """
    first = adapters[0]
    down, up = (torch.stack([getattr(of, part).weight.mT for of in adapters]) for part in ("down", "up"))
    inner, outer = (torch.stack([getattr(of, part).bias for of in adapters]) for part in ("down", "up"))
    total = torch.zeros_like(like)
    for own, weight in zip(choice.unbind(1), weights.unbind(1), strict=True):
        hidden = F.relu(torch.baddbmm(inner[own][:, None], x, down[own]))
        hidden = F.dropout(hidden, first.dropout, first.training)
        part = first.scale * torch.baddbmm(outer[own][:, None], hidden, up[own])
        total = total + (weight[:, None, None].to(part.dtype) * part).to(total.dtype)
    return total
