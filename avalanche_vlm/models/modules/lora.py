"""Low-rank adaptation (Hu et al., arXiv 2106.09685) that lives beside the weights of open_clip's and timm's layers.

No weight is merged at a forward pass, and the state-dict keys of the layers stay what they were. Of the modules in one
layer at most one is active; with none active a layer computes what it computed before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.attention import FusedAttention
from avalanche_vlm.models.modules.low_rank import LowRank, Make, changed_linear
from avalanche_vlm.models.modules.site import Site, changed, is_attention_pool, matching

ATTENTION_PATTERN = r"\bresblocks\.\d+\.attn$|\bblocks\.\d+\.attn\.(qkv|[qkv]_proj|proj)$"
"""Attention of every block of open_clip's own towers (``resblocks``) and of timm's (``blocks``), whose projections are
linear layers."""

DEFAULT_PATTERN = ATTENTION_PATTERN + r"|\bresblocks\.\d+\.mlp\.(c_fc|c_proj)$|\bblocks\.\d+\.mlp\.fc[12](_[gx])?$"
"""Attention and MLP of every block. CoCa's pooler and cross-attention, whose queries differ from their keys, are
outside."""

PARTS = ("q", "k", "v", "out")
"""The projections of attention."""

_LINEAR_PARTS = {"qkv": ("q", "k", "v"), "q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",), "proj": ("out",)}
"""The projections that timm's linear layers in ``attn`` stand for."""


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
        """A new module for each of the layer's weights."""
        return nn.ModuleDict({part: self.make(weight.detach()) for part, weight in self.weights().items()})

    @torch.no_grad()
    def _take(self, name: str, coefficient: float) -> dict[str, torch.Tensor]:
        """Drop a module and give its changes by part."""
        weights, parts = self.weights(), cast("nn.ModuleDict", self.drop(name))
        return {part: coefficient * cast("Any", module).delta(weights[part]) for part, module in parts.items()}


class LoRALinear(LoRALayer):
    """A linear layer with low-rank modules.

    :param linear: the layer whose weight and bias are taken over.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, make: Make) -> None:
        super().__init__(make)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def weights(self) -> dict[str, torch.Tensor]:
        """The one weight."""
        return {"weight": self.weight}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.active is None:
            return F.linear(x, self.weight, self.bias)
        return changed_linear(x, self.weight, self.bias, [self.module["weight"]])

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        """Add a module's change to the weight for good and drop the module."""
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

    @property
    def unchanged(self) -> bool:
        """Whether no module is active, here or on the output's projection."""
        return self.active is None and getattr(self.out_proj, "active", None) is None

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of the adapted ones of q, k and v."""
        q_k_v = dict(zip(PARTS, self.in_proj_weight.chunk(3), strict=False))
        return {part: q_k_v[part] for part in self.parts}

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values ``[B, L, 3 D]``, with the active module's changes."""
        if self.active is None or not self.parts:
            return super().project(x)
        modules = self.module
        of_parts = [modules[part] if part in self.parts else None for part in ("q", "k", "v")]
        return changed_linear(x, self.in_proj_weight, self.in_proj_bias, of_parts)

    def merge(self, name: str, coefficient: float = 1.0) -> None:
        """Add a module's change to the fused weight for good and drop the module."""
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

    :param tower: a tower, for example ``clip.visual``, open_clip's own or timm's.
    :param rank: inner width of every module.
    :param alpha: scale times rank; the rank by default (scale 1).
    :param pattern: regular expression searched in module names; must match linear layers or attention.
    :param parts: which projections of attention to adapt, of q, k, v, out. Where timm has q, k and v in one linear
        layer it is adapted as one, so that they come together or not at all.
    :param make: another kind of module than :class:`~avalanche_vlm.models.modules.low_rank.LowRank`; rank and alpha are
        then its own affair.
    :return: the new layers by name, in the tower's order.
    :raises InputError: if the rank is not positive, a part is unknown or cannot be had alone, nothing matches, a match
        is of another kind, or its weight is read by something else than the layer itself.
    """
    if rank < 1:
        raise InputError(f"the rank of LoRA is a whole number of 1 or more, not {rank}")
    for part in parts:
        if part not in PARTS:
            raise InputError(f"the parts of attention are {', '.join(PARTS)}, not {part!r}")
    make = make or partial(LowRank, rank=rank, alpha=alpha)
    found: dict[str, Any] = {name: child for name, child in matching(tower, pattern) if _wanted(name, parts)}
    for name, child in found.items():
        _check_adaptable(name, child, tower.get_submodule(name.rpartition(".")[0]))
    layers: dict[str, LoRALayer] = {}
    for name, child in found.items():
        parent, _, last = name.rpartition(".")
        attention = isinstance(child, nn.MultiheadAttention)
        layer: LoRALayer = LoRAAttention(child, make, parts) if attention else LoRALinear(child, make)
        layer.train(child.training)
        setattr(tower.get_submodule(parent), last, layer)
        layers |= {f"{name}.{inner}".rstrip("."): m for inner, m in layer.named_modules() if isinstance(m, LoRALayer)}
    return layers


def _wanted(name: str, parts: Sequence[str]) -> bool:
    """Whether a match is among the chosen projections, or no projection of attention."""
    *_, parent, last = ("", *name.split("."))
    own = _LINEAR_PARTS.get(last, ()) if parent == "attn" else ()
    chosen = set(own) & set(parts)
    if chosen and chosen != set(own):
        raise InputError(
            f"{', '.join(own)} are one layer, {name}: LoRA adapts all of them, not {', '.join(parts)} alone"
        )
    return bool(chosen) or not own


def _check_adaptable(name: str, child: nn.Module, parent: nn.Module) -> None:
    if isinstance(parent, nn.MultiheadAttention):
        raise InputError(f"LoRA cannot adapt {name} by itself: match its attention, and choose its parts")
    if not isinstance(child, nn.MultiheadAttention) and type(child) is not nn.Linear:
        raise InputError(f"LoRA cannot adapt {name}, a {type(child).__name__}: give a pattern of linear layers")
    # The attention pool of CLIP's ResNets computes from its layers' weights, and so do timm's BEiT and EVA where q and
    # v have biases of their own: a layer in their place would never be called.
    own_bias = name.endswith(".qkv") and getattr(parent, "q_bias", None) is not None
    if is_attention_pool(parent) or (own_bias and not getattr(parent, "qkv_bias_separate", False)):
        raise InputError(f"LoRA cannot adapt {name}: its {type(parent).__name__} reads the weight and calls no layer")
