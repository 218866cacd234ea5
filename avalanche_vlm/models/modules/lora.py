"""Low-rank adaptation (Hu et al., arXiv 2106.09685) that lives beside the weights of open_clip's layers.

No weight is merged at a forward pass, and the state-dict keys of the layers stay what they were. Of the modules in one
layer at most one is active; with none active a layer computes what it computed before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.attention import FusedAttention
from avalanche_vlm.models.modules.site import Site, changed, matching

DEFAULT_PATTERN = r"resblocks\.\d+\.(attn|mlp\.c_fc|mlp\.c_proj)$"
"""Attention and MLP of every residual block. CoCa's pooler and cross-attention, whose queries differ from their keys,
are outside."""

PARTS = ("q", "k", "v", "out")
"""The projections of attention."""


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
        self.A = nn.Parameter(torch.empty(rank, fan_in))
        self.B = nn.Parameter(torch.zeros(fan_out, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """What it adds to the layer's output ``[..., fan_out]`` for inputs ``[..., fan_in]``."""
        return self.scale * F.linear(F.linear(x, self.A), self.B)

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """The change of the weight ``[fan_out, fan_in]`` that this module stands for."""
        return self.scale * (self.B @ self.A)


Make = Callable[[torch.Tensor], nn.Module]
"""Makes a module for a weight ``[fan_out, fan_in]``: :class:`LowRank` or another with its ``forward(x, weight)`` and
``delta(weight)``."""


class LoRALayer(Site):
    """A layer whose weights modules change.

    :param make: makes a module for one of its weights.
    """

    mergeable = True

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapted weights by part, ``[fan_out, fan_in]`` each, as they are now."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        return nn.ModuleDict({part: self.make(weight.detach()) for part, weight in self.weights().items()})

    @torch.no_grad()
    def _take(self, name: str, coefficient: float) -> dict[str, torch.Tensor]:
        """Drop a module and give its changes by part."""
        weights = self.weights()
        return {part: coefficient * module.delta(weights[part]) for part, module in self.drop(name).items()}


class LoRALinear(LoRALayer):
    """A linear layer with low-rank modules.

    :param linear: the layer whose weight and bias are taken over.
    """

    def __init__(self, linear: nn.Linear, make: Make) -> None:
        super().__init__(make)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def weights(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if self.active is None else y + self.bank[self.active]["weight"](x, self.weight)

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        self.weight = changed(self.weight, self._take(name, coefficient)["weight"])


class LoRAAttention(FusedAttention, LoRALayer):
    """Self-attention with low-rank modules on q, k, v and out.

    :param attention: the layer whose parameters are taken over.
    :param parts: which of ``q``, ``k``, ``v``, ``out`` to adapt.
    """

    def __init__(self, attention: nn.MultiheadAttention, make: Make, parts: Sequence[str]) -> None:
        super().__init__(make)
        self.take_over(attention)
        self.parts = tuple(part for part in ("q", "k", "v") if part in parts)
        if "out" in parts:
            self.out_proj = LoRALinear(attention.out_proj, make)

    def weights(self) -> dict[str, torch.Tensor]:
        q_k_v = dict(zip(PARTS, self.in_proj_weight.chunk(3), strict=False))
        return {part: q_k_v[part] for part in self.parts}

    def project(self, x: torch.Tensor) -> torch.Tensor:
        qkv = super().project(x)
        if self.active is None or not self.parts:
            return qkv
        modules, weights = self.bank[self.active], self.weights()
        zero = qkv.new_zeros(()).expand(x.shape)
        change = [modules[part](x, weights[part]) if part in modules else zero for part in ("q", "k", "v")]
        return qkv + torch.cat(change, dim=-1)

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        changes = self._take(name, coefficient)
        if not changes:
            return
        unchanged = self.in_proj_weight.new_zeros(self.embed_dim, self.embed_dim)
        change = torch.cat([changes.get(part, unchanged) for part in ("q", "k", "v")])
        self.in_proj_weight = changed(self.in_proj_weight, change)


def inject_lora(
    tower: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    pattern: str = DEFAULT_PATTERN,
    parts: Sequence[str] = PARTS,
    make: Make | None = None,
) -> dict[str, LoRALayer]:
    """Replace the matching layers of a tower in place.

    :param tower: for example ``clip.visual``.
    :param rank: inner width of every module.
    :param alpha: scale times rank; the rank by default (scale 1).
    :param pattern: regular expression searched in module names; must match linear layers or attention.
    :param parts: which projections of attention to adapt, of q, k, v, out.
    :param make: another kind of module than :class:`LowRank`; rank and alpha are then its own affair.
    :return: the new layers by name, in the tower's order.
    :raises InputError: if the rank is not positive, a part is unknown, nothing matches, or a match is of another kind.
    """
    if rank < 1:
        raise InputError(f"the rank of LoRA is a whole number of 1 or more, not {rank}")
    for part in parts:
        if part not in PARTS:
            raise InputError(f"the parts of attention are {', '.join(PARTS)}, not {part!r}")
    make = make or partial(LowRank, rank=rank, alpha=alpha)
    layers: dict[str, LoRALayer] = {}
    for name, child in matching(tower, pattern):
        parent, _, last = name.rpartition(".")
        if isinstance(child, nn.MultiheadAttention):
            layer: LoRALayer = LoRAAttention(child, make, parts)
        elif type(child) is nn.Linear:
            layer = LoRALinear(child, make)
        else:
            raise InputError(f"LoRA cannot adapt {name}, a {type(child).__name__}: give a pattern of linear layers")
        layer.train(child.training)
        setattr(tower.get_submodule(parent), last, layer)
        layers |= {f"{name}.{inner}".rstrip("."): m for inner, m in layer.named_modules() if isinstance(m, LoRALayer)}
    return layers
