"""Self-attention that owns another layer's weights and lets subclasses into its steps: ``nn.MultiheadAttention``'s, as
open_clip's towers have it, and timm's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError


class FusedAttention(nn.Module):
    """A drop-in for ``nn.MultiheadAttention`` as open_clip's residual blocks call it, under the same state-dict keys.

    :meth:`project`, :meth:`attend` and the output's projection are steps of their own. No weights of attention are ever
    returned.
    """

    def take_over(self, attention: nn.MultiheadAttention) -> None:
        """Own its parameters from now on.

        :raises InputError: if its projections are not one, or keys have a bias of their own.
        """
        if attention.in_proj_weight is None or attention.bias_k is not None:
            raise InputError("an attention can be adapted if it has one fused projection and no extra key bias")
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.batch_first = attention.batch_first
        self.dropout = attention.dropout
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj: nn.Module = attention.out_proj
        # In a tuple, so that its parameters are not this module's a second time.
        self._original = (attention,)

    def train(self, mode: bool = True) -> FusedAttention:
        """Set the mode."""
        self._original[0].train(mode)
        return super().train(mode)

    @property
    def unchanged(self) -> bool:
        """Whether the attention that was taken over would give the same. It then computes itself, to the last bit: in
        eval mode torch has a kernel for it that rounds in another way than the steps here."""
        return False

    def _taken_over(self) -> nn.MultiheadAttention:
        """That attention with the parameters as they are now: a merge makes new ones."""
        (original,) = self._original
        for theirs, ours, names in (
            (original, self, ("in_proj_weight", "in_proj_bias")),
            (original.out_proj, self.out_proj, ("weight", "bias")),
        ):
            for name in names:
                if getattr(theirs, name) is not getattr(ours, name):
                    setattr(theirs, name, getattr(ours, name))
        return original

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values side by side ``[B, L, 3 D]`` of inputs ``[B, L, D]``."""
        return F.linear(x, self.in_proj_weight, self.in_proj_bias)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, x: torch.Tensor
    ) -> torch.Tensor:
        """What the queries ``[B, heads, L, d]`` gather of the values.

        :param mask: ``[L, L]`` or ``[B * heads, L, L]``, added to the scores.
        :param x: the inputs ``[B, L, D]``.
        """
        if mask is not None and mask.ndim == 3:
            mask = mask.view(-1, self.num_heads, *mask.shape[1:])
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Self-attention ``[B, L, D]`` (or ``[L, B, D]`` without ``batch_first``)."""
        if not (query is key and key is value):
            raise InputError("an adapted attention is self-attention: leave out blocks whose queries differ from keys")
        if self.unchanged:
            return self._taken_over()(query, key, value, need_weights=False, attn_mask=attn_mask)
        x = query if self.batch_first else query.transpose(0, 1)
        batch, length, _ = x.shape
        # Split before the heads move forward: the gradients of the three are then put together in one copy.
        q, k, v = (
            part.transpose(1, 2) for part in self.project(x).view(batch, length, 3, self.num_heads, -1).unbind(2)
        )
        y = self.attend(q, k, v, attn_mask, x)
        y = self.out_proj(y.transpose(1, 2).reshape(batch, length, self.embed_dim))
        return (y if self.batch_first else y.transpose(0, 1)), None


class TimmAttention(nn.Module):
    """A drop-in for timm's attention under its state-dict keys. Without dropout: it is for frozen towers."""

    qkv: nn.Module
    q_norm: nn.Module
    k_norm: nn.Module
    norm: nn.Module
    proj: nn.Module

    def take_over(self, attention: Any) -> None:
        """Own its parts from now on.

        :raises InputError: if it is more than attention.
        """
        parts = dict(attention.named_children())
        known = {"qkv", "q_norm", "k_norm", "norm", "proj", "attn_drop", "proj_drop"}
        if set(parts) - known or "qkv" not in parts or next(attention.parameters(recurse=False), None) is not None:
            raise InputError(f"prompts cannot enter attention that is a {type(attention).__name__} with extra parts")
        self.num_heads = attention.num_heads
        self.embed_dim = attention.qkv.out_features // 3
        for name in ("qkv", "q_norm", "k_norm", "norm", "proj"):
            self.add_module(name, parts.get(name, nn.Identity()))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """What the queries ``[B, heads, L, d]`` gather of the values."""
        return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)

    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, **others: Any) -> torch.Tensor:
        """Self-attention ``[B, L, D]``."""
        if attn_mask is not None or any(others.values()):
            raise InputError("prompts of single samples enter attention without a mask, and this tower has one")
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = self.attend(self.q_norm(q), self.k_norm(k), v)
        return self.proj(self.norm(y.transpose(1, 2).reshape(batch, length, -1)))


def is_timm_attention(layer: Any) -> bool:
    """Whether a layer is timm's attention, as it comes.

    :param layer: a layer of an image tower, of whatever kind.
    """
    return isinstance(getattr(layer, "qkv", None), nn.Linear) and not isinstance(layer, TimmAttention)
