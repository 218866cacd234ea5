"""Weight-decomposed low-rank adaptation: how long a weight's rows are, and where they point, are learned apart."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.low_rank import Factors, LowRank


class DoRA(LowRank):
    """DoRA (Liu et al., arXiv 2402.09353, eq. 5): the changed weight is ``m (W + V) / ||W + V||`` with
    ``V = alpha / rank * B A``, and ``m`` starts as ``||W||``.

    The norm is that of every row ``[fan_in]``, one magnitude per output, which is how the authors' code and ``peft``
    read the paper's column-wise norm (the paper writes weights transposed). A new module changes nothing up to
    rounding: ``m / ||W||`` is exactly 1, and only the bias is added in another place of the sum.

    With :class:`~avalanche_vlm.models.modules.lora.LoRALinear` and ``inject_lora(..., make=partial(DoRA, rank=8))`` it
    works wherever LoRA does. Beside LoRA it costs the product ``W A^T``, a pass over ``W`` and one over the layer's
    output, which the magnitudes have to see.

    :param weight: ``[fan_out, fan_in]``, the weight that it changes.
    :param rank: inner width, at least 1.
    :param alpha: scale times rank; the rank by default (scale 1).
    :param detach_norm: treat ``||W + V||`` as a constant in the backward pass, which saves memory for hardly a
        difference in what is learned (section 4.3). The default here, of the authors' code and of ``peft``.
    :raises InputError: if a row of the weight is zero: it has no direction.

    >>> weight = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> dora = DoRA(weight, rank=1)
    >>> dora.magnitude.tolist(), bool(dora.delta(weight).any())
    ([5.0, 2.0], False)
    """

    def __init__(
        self, weight: torch.Tensor, rank: int, alpha: float | None = None, *, detach_norm: bool = True
    ) -> None:
        super().__init__(weight, rank, alpha)
        self.detach_norm = detach_norm
        magnitude = _squared_rows(weight).sqrt()
        if not magnitude.all():
            raise InputError("DoRA cannot adapt a weight with a row of zeros: it has no direction")
        self.magnitude = nn.Parameter(magnitude.to(weight.dtype))

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """What it adds to the layer's output ``[..., fan_out]`` for inputs ``[..., fan_in]``."""
        scale = self._scale(weight)
        b = (self.scale * scale).unsqueeze(1) * self.B
        return (scale - 1) * F.linear(x, weight) + F.linear(F.linear(x, self.A), b)

    def factors(self, weight: torch.Tensor) -> Factors:
        """The same for several modules at once, the magnitudes with it."""
        scale = self._scale(weight)
        return self.A, (self.scale * scale).unsqueeze(1) * self.B, scale

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """The change of the weight ``[fan_out, fan_in]`` that this module stands for."""
        scale = self._scale(weight)
        return (scale - 1).unsqueeze(1) * weight + ((self.scale * scale).unsqueeze(1) * self.B) @ self.A

    def _scale(self, weight: torch.Tensor) -> torch.Tensor:
        """``m / ||W + V||`` of every row ``[fan_out]``."""
        return self.magnitude / self._norm(weight)

    def _norm(self, weight: torch.Tensor) -> torch.Tensor:
        """``||W + V||`` of every row ``[fan_out]``: ``||w||^2 + 2 w.v + ||v||^2`` needs no ``[fan_out, fan_in]``."""
        # Half precision would show as a wrong length of every row.
        with torch.no_grad() if self.detach_norm else nullcontext(), torch.autocast(weight.device.type, enabled=False):
            a, b = self.A, self.scale * self.B
            cross = 2 * torch.linalg.vecdot(b, weight @ a.T)
            return (_squared_rows(weight) + cross + torch.linalg.vecdot(b @ (a @ a.T), b)).sqrt().to(weight.dtype)


def _squared_rows(weight: torch.Tensor) -> torch.Tensor:
    precise = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.vector_norm(weight, dim=1, dtype=precise).square()
