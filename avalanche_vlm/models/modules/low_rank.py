"""Low-rank changes of a linear layer's weight, and the output of a layer with several of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.models.autocast import autocast_dtype

Factors = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""``A [r, fan_in]``, ``B [fan_out, r]`` and ``s [fan_out]`` of a changed weight ``s W + B A``; no ``s`` for ones."""


class LowRank(nn.Module):
    """``alpha / rank * B A`` with ``A`` Kaiming-uniform and ``B`` zero, so that a new module changes nothing.

    :param weight: ``[fan_out, fan_in]``, the weight that it changes; only its shape counts.
    :param rank: inner width, at least 1.
    :param alpha: scale times rank; the rank by default (scale 1).
    """

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float | None = None) -> None:
        super().__init__()
        fan_out, fan_in = weight.shape
        self.scale = (rank if alpha is None else alpha) / rank
        self.A: torch.Tensor = nn.Parameter(torch.empty(rank, fan_in))
        self.B = nn.Parameter(torch.zeros(fan_out, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """What it adds to the layer's output ``[..., fan_out]`` for inputs ``[..., fan_in]``."""
        return F.linear(F.linear(x, self.A), self.scale * self.B)

    def factors(self, weight: torch.Tensor) -> Factors:
        """The same for :func:`changed_linear`, which adds up several modules at once."""
        return self.A, self.scale * self.B, None

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """The change of the weight ``[fan_out, fan_in]`` that this module stands for."""
        return self.scale * (self.B @ self.A)


class SubspaceLowRank(LowRank):
    """``alpha / rank * B A`` that reads only the directions that it is given: ``A`` is fixed, ``B`` trains from zero.

    Without directions (the rows of ``A`` are zero) it changes nothing and has no gradient.

    :param weight: ``[fan_out, fan_in]``, the weight that it changes; only its shape counts.
    :param rank: directions at most, at least 1.
    :param alpha: scale times rank; the rank by default (scale 1).
    """

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float | None = None) -> None:
        super().__init__(weight, rank, alpha)
        del self.A
        self.register_buffer("A", torch.zeros(rank, weight.shape[1]))

    @torch.no_grad()
    def read(self, directions: torch.Tensor) -> None:
        """Take the directions ``[k, fan_in]`` from now on, with k no larger than the rank."""
        self.A.zero_()[: len(directions)] = directions


Make = Callable[[torch.Tensor], Any]
"""Makes a module for a weight ``[fan_out, fan_in]``: :class:`LowRank` or another with its ``forward(x, weight)`` and
``delta(weight)``, and with its ``factors(weight)`` where speed counts."""


def changed_linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, modules: Sequence[Any]
) -> torch.Tensor:
    """The output ``[..., fan_out]`` of a linear layer of which modules change the weight.

    The inputs are read once for all modules and their changes are added to the output in place: next to the layer's own
    output no tensor of its size is made.

    :param x: inputs ``[..., fan_in]``.
    :param weight: ``[fan_out, fan_in]``; its rows are shared out evenly, in order, among the modules.
    :param bias: ``[fan_out]``, or None.
    :param modules: one of each share of the rows, None where they stay as they are.

    >>> x, weight = torch.randn(5, 3), torch.randn(4, 3)
    >>> low_rank = LowRank(weight[2:], rank=2)
    >>> _ = nn.init.ones_(low_rank.B)
    >>> y = changed_linear(x, weight, None, [None, low_rank])
    >>> bool(torch.allclose(y[:, 2:], x @ (weight[2:] + low_rank.delta(weight[2:])).T, atol=1e-6))
    True
    """
    weights = weight.chunk(len(modules))
    pairs = list(zip(modules, weights, strict=True))
    if not all(module is None or hasattr(module, "factors") for module in modules):
        changes = [module(x, w) if module is not None else x.new_zeros(*x.shape[:-1], len(w)) for module, w in pairs]
        return F.linear(x, weight, bias) + torch.cat(changes, dim=-1)
    nothing = (weight.new_zeros(0, weight.shape[1]), weight.new_zeros(len(weights[0]), 0), None)
    factors = [nothing if module is None else module.factors(w) for module, w in pairs]
    # Flat, so that what is changed in place is no view: autograd would copy the gradients of a view.
    rows = _in_autocast(x.reshape(-1, x.shape[-1]))
    scales = [scale for _, _, scale in factors]
    scaled = any(scale is not None for scale in scales)
    inward = _joined(torch.cat, [a for a, _, _ in factors])
    y, inner = _TwoLinear.apply(rows, weight, None if scaled else bias, inward)
    if scaled:
        scale = _joined(torch.cat, [weight.new_ones(len(weights[0])) if s is None else s for s in scales]).to(y.dtype)
        y = y * scale if bias is None else torch.addcmul(bias.to(y.dtype), y, scale)
    outer = _joined(lambda blocks: torch.block_diag(*blocks), [b for _, b, _ in factors])
    y.addmm_(inner, outer.T.to(y.dtype))
    return y.view(*x.shape[:-1], len(weight))


class _TwoLinear(torch.autograd.Function):
    """``x W^T + b`` and ``x A^T`` of inputs ``[N, fan_in]``.

    As autograd would do it, but that the gradients by ``x`` of the two are added up where the first is, which saves a
    tensor of the inputs' size at the moment when memory is shortest.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, inward: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(x, weight, inward)
        return F.linear(x, weight, bias), F.linear(x, inward)

    @staticmethod
    def backward(ctx: Any, grad_y: torch.Tensor, grad_inner: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inward = ctx.saved_tensors
        of_x, of_weight, of_bias, of_inward = ctx.needs_input_grad
        with torch.autocast(grad_y.device.type, enabled=False):
            grad_x = None
            if of_x:
                grad_x = grad_y @ weight.to(grad_y.dtype)
                grad_x.addmm_(grad_inner, inward.to(grad_y.dtype))
            return (
                grad_x,
                (grad_y.T @ x).to(weight.dtype) if of_weight else None,
                grad_y.sum(0) if of_bias else None,
                (grad_inner.T @ x).to(inward.dtype) if of_inward else None,
            )


def _in_autocast(x: torch.Tensor) -> torch.Tensor:
    """What autocast would make of a linear layer's input."""
    cast = autocast_dtype(x.device)
    return x if cast is None or x.dtype == torch.float64 else x.to(cast)


def _joined(join: Callable[[list[torch.Tensor]], torch.Tensor], tensors: list[torch.Tensor]) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else join(tensors)
