"""Low-rank changes in the singular directions that a weight uses least."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm._rows import dropout
from avalanche_vlm.weights.subspaces import weight_tail


class TailLowRank(nn.Module):
    """NuSA-CL's ``U_n M V_n^T`` (Jo and Kim, arXiv 2510.21175): ``U_n`` and ``V_n`` are tail singular directions of the
    weight as it is now, and only ``M`` trains, from zero. The change reads nothing from the head's inputs and writes
    nothing into its outputs, whatever the optimizer does to ``M``.

    ``hold_outputs=False`` gives ``B V_n^T`` with a free ``B [fan_out, r]``: KeepLoRA's frozen ``A`` in the residual
    subspace (arXiv 2601.19659), which holds the inputs alone. KeepLoRA picks its directions out of that subspace by the
    first gradient and keeps the features of past tasks out of them too; here they are those of the smallest singular
    values of the weight, which needs no data.

    :param weight: the weight that it changes, ``[fan_out, fan_in]``.
    :param rank: directions at most.
    :param tail_energy: share of the weight's squared singular values that the directions may hold together, in (0, 1].
        A weight whose smallest singular value holds more than that has no tail: the module has no directions then and
        changes nothing. With 1 the rank alone decides, and a layer that is no wider than the rank has no head left that
        is held.
    :param hold_outputs: whether the outputs of the head are held as well.
    :param alpha: scale of the change times the square root of its number of directions, ``alpha / sqrt(r) U_n M
        V_n^T``; None for the change as it is.
    :param dropout: share of the inputs of the change that are set to zero while it trains, in [0, 1).

    >>> tail = TailLowRank(torch.diag(torch.tensor([3.0, 2.0, 0.5])), rank=2, tail_energy=0.1)
    >>> tail.V.abs().T, tail.M.shape
    (tensor([[0., 0., 1.]]), torch.Size([1, 1]))
    >>> TailLowRank(torch.eye(3), rank=2, tail_energy=0.1).M.shape
    torch.Size([0, 0])
    """

    U: torch.Tensor | None
    V: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        rank: int,
        tail_energy: float = 1.0,
        hold_outputs: bool = True,
        alpha: float | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        weight = weight.float()  # half precision has no singular value decomposition
        u, v = weight_tail(weight, min(rank, *weight.shape))
        # The energy of a direction is its singular value squared, and both come in descending order.
        energy = (weight @ v).square().sum(0)
        held = energy.flip(0).cumsum(0) <= tail_energy * weight.square().sum() * (1 + 1e-6)
        head = len(energy) - int(held.sum())
        u, v = u[:, head:].clone(), v[:, head:].clone()
        self.register_buffer("U", u if hold_outputs else None)
        self.register_buffer("V", v)
        count = v.shape[1]
        self.M = nn.Parameter(weight.new_zeros(count if hold_outputs else len(weight), count))
        self.alpha, self.dropout = alpha, dropout

    @property
    def scale(self) -> float:
        """What the change is multiplied by."""
        return 1.0 if self.alpha is None or not self.V.shape[1] else self.alpha / math.sqrt(self.V.shape[1])

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """What it adds to the layer's output ``[..., fan_out]`` for inputs ``[..., fan_in]``."""
        y = F.linear(F.linear(dropout(x, self.dropout, self.training), self.V.T), self.scale * self.M)
        return y if self.U is None else F.linear(y, self.U)

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """The change of the weight ``[fan_out, fan_in]`` that this module stands for."""
        change = self.scale * self.M @ self.V.T
        return change if self.U is None else self.U @ change
