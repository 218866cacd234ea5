"""Low-rank adaptation on linear layers and on open_clip's fused attention (Hu et al., arXiv 2106.09685).

The injected layers take over the pretrained parameters under their old names, so a state dict keeps its keys, and add
``scale * B A x`` to the activations: no weight is merged at a forward, and no gradient of a full weight is computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError

DEFAULT_PATTERN = r"resblocks\.\d+\.(attn|mlp\.c_fc|mlp\.c_proj)$"
"""Attention and MLP of every residual block. CoCa's pooler and cross-attention, whose queries differ from their keys,
are outside."""

PARTS = ("q", "k", "v", "out")
"""The projections of attention."""


class LowRank(nn.Module):
    """One ``B A`` with ``A`` Kaiming-uniform and ``B`` zero, so that a new module changes nothing.

    :param weight: ``[fan_out, fan_in]``, the weight that it changes; only its shape counts.
    :param rank: inner width, at least 1.
    """

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        fan_out, fan_in = weight.shape
        self.A = nn.Parameter(torch.empty(rank, fan_in))
        self.B = nn.Parameter(torch.zeros(fan_out, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.A), self.B)

    def delta(self) -> torch.Tensor:
        """The change of the weight ``[fan_out, fan_in]`` that this module stands for, without the scale."""
        return self.B @ self.A


Make = Callable[[torch.Tensor, int], nn.Module]
"""Makes a module of a weight ``[fan_out, fan_in]`` and a rank: :class:`LowRank` or another with a ``delta()``."""


class LoRALayer(nn.Module):
    """State that every adapted layer has: the modules by name, which one is active, and their common scale."""

    def __init__(self, rank: int, alpha: float) -> None:
        super().__init__()
        self.rank = rank
        self.lora_scale = alpha / rank
        self.active: str | None = None
        self.lora = nn.ModuleDict()

    def _weights(self) -> dict[str, torch.Tensor]:
        """The adapted weights by part, ``[fan_out, fan_in]`` each, as they are now."""
        raise NotImplementedError

    def add(self, name: str, make: Make = LowRank) -> None:
        """A new module of the layer's shape, on its device.

        :param name: one that is known already is replaced.
        :param make: what kind of module.
        """
        reference = next(self.parameters())
        parts = {part: make(weight.detach(), self.rank) for part, weight in self._weights().items()}
        self.lora[name] = nn.ModuleDict(parts).to(reference.device, reference.dtype)

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        """Add a module's change to the weight for good and drop the module.

        The weight becomes a new parameter, and the old one stays as it was: a teacher may share it.

        :param coefficient: of the change.
        """
        raise NotImplementedError

    @torch.no_grad()
    def _take(self, name: str, coefficient: float) -> dict[str, torch.Tensor]:
        """Drop a module and give its changes by part."""
        if self.active == name:
            self.active = None
        return {part: coefficient * self.lora_scale * m.delta() for part, m in self.lora.pop(name).items()}


class LoRALinear(LoRALayer):
    """A linear layer with low-rank modules.

    :param linear: the layer whose weight and bias are taken over.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(rank, alpha)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def _weights(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return y if self.active is None else y + self.lora_scale * self.lora[self.active]["weight"](x)

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        self.weight = _changed(self.weight, self._take(name, coefficient)["weight"])


class LoRAAttention(LoRALayer):
    """Self-attention that owns ``nn.MultiheadAttention``'s fused weight, with low-rank modules on q, k, v and out.

    :param attention: the layer whose parameters are taken over.
    :param parts: which of ``q``, ``k``, ``v``, ``out`` to adapt.
    """

    def __init__(self, attention: nn.MultiheadAttention, rank: int, alpha: float, parts: Sequence[str]) -> None:
        super().__init__(rank, alpha)
        if attention.in_proj_weight is None or attention.bias_k is not None:
            raise InputError("LoRA needs attention with one fused projection and no extra key bias")
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.batch_first = attention.batch_first
        self.dropout = attention.dropout
        self.parts = tuple(part for part in ("q", "k", "v") if part in parts)
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj: nn.Module = attention.out_proj
        if "out" in parts:
            self.out_proj = LoRALinear(attention.out_proj, rank, alpha)

    def _weights(self) -> dict[str, torch.Tensor]:
        q_k_v = dict(zip(PARTS, self.in_proj_weight.chunk(3), strict=False))
        return {part: q_k_v[part] for part in self.parts}

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Self-attention ``[B, L, D]`` (or ``[L, B, D]`` without ``batch_first``); weights are never returned."""
        if not (query is key and key is value):
            raise InputError("LoRA was injected into cross-attention: match self-attention blocks only")
        x = query if self.batch_first else query.transpose(0, 1)
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        if self.active is not None and self.parts:
            low_rank = self.lora[self.active]
            zero = qkv.new_zeros(()).expand(x.shape)
            change = [low_rank[part](x) if part in low_rank else zero for part in ("q", "k", "v")]
            qkv = qkv + self.lora_scale * torch.cat(change, dim=-1)
        batch, length, _ = x.shape
        q, k, v = qkv.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)
        y = self.out_proj(y.transpose(1, 2).reshape(batch, length, self.embed_dim))
        return (y if self.batch_first else y.transpose(0, 1)), None

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        changes = self._take(name, coefficient)
        if not changes:
            return
        unchanged = self.in_proj_weight.new_zeros(self.embed_dim, self.embed_dim)
        change = torch.cat([changes.get(part, unchanged) for part in ("q", "k", "v")])
        self.in_proj_weight = _changed(self.in_proj_weight, change)


def _changed(weight: nn.Parameter, change: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach() + change, requires_grad=weight.requires_grad)


def inject_lora(
    tower: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    pattern: str = DEFAULT_PATTERN,
    parts: Sequence[str] = PARTS,
) -> list[LoRALayer]:
    """Replace the matching layers of a tower in place.

    :param tower: for example ``clip.visual``.
    :param rank: inner width of every module.
    :param alpha: scale times rank; the rank by default (scale 1).
    :param pattern: regular expression searched in module names; must match linear layers or attention.
    :param parts: which projections of attention to adapt, of q, k, v, out.
    :return: the new layers, in the tower's order.
    :raises InputError: if the rank is not positive, a part is unknown, nothing matches, or a match is of another kind.
    """
    if rank < 1:
        raise InputError(f"the rank of LoRA is a whole number of 1 or more, not {rank}")
    for part in parts:
        if part not in PARTS:
            raise InputError(f"the parts of attention are {', '.join(PARTS)}, not {part!r}")
    alpha = float(rank if alpha is None else alpha)
    layers: list[LoRALayer] = []
    matches = [name for name, _ in tower.named_modules() if re.search(pattern, name)]
    for name in matches:
        parent = tower.get_submodule(name.rpartition(".")[0])
        child = tower.get_submodule(name)
        if isinstance(child, nn.MultiheadAttention):
            layer: LoRALayer = LoRAAttention(child, rank, alpha, parts)
        elif isinstance(child, nn.Linear):
            layer = LoRALinear(child, rank, alpha)
        else:
            raise InputError(f"LoRA cannot adapt {name}, a {type(child).__name__}: give a pattern of linear layers")
        layer.train(child.training)
        setattr(parent, name.rpartition(".")[2], layer)
        layers += [m for m in layer.modules() if isinstance(m, LoRALayer)]
    if not layers:
        raise InputError(f"LoRA found no layer whose name matches {pattern!r}")
    return layers
