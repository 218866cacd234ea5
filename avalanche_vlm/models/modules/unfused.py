"""Attention as linear layers, each projection by itself: what peft's files of a LoRA name their layers in."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.errors import InputError

M = TypeVar("M", bound=nn.Module)


class UnfusedAttention(nn.Module):
    """Self-attention as ``nn.MultiheadAttention`` computes it, in four layers: ``q_proj`` and its like, ``out_proj``.

    :param attention: the attention whose weights are copied; its queries, keys and values have one width.
    :raises InputError: if its projections are not one, or keys have a bias of their own.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        if attention.in_proj_weight is None or attention.bias_k is not None:
            raise InputError("an attention can be unfused if it has one fused projection and no extra key bias")
        self.num_heads, self.batch_first = attention.num_heads, attention.batch_first
        biased = attention.in_proj_bias is not None
        biases = attention.in_proj_bias.chunk(3) if biased else (None, None, None)
        linear = []
        for weight, bias in zip(attention.in_proj_weight.chunk(3), biases, strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=biased, device=weight.device, dtype=weight.dtype)
            layer.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
            if bias is not None:
                layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
            linear.append(layer)
        self.q_proj, self.k_proj, self.v_proj = linear
        out = attention.out_proj
        self.out_proj = nn.Linear(
            out.in_features,
            out.out_features,
            bias=out.bias is not None,
            device=out.weight.device,
            dtype=out.weight.dtype,
        )
        self.out_proj.load_state_dict(out.state_dict())

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        """Attend, as open_clip's blocks call it.

        :param query: tokens ``[B, L, D]``, or ``[L, B, D]`` of an attention that had its batch second.
        :param key: tokens of the same shape.
        :param value: tokens of the same shape.
        :param need_weights: whatever is asked for, no weights are given.
        :param attn_mask: what is added to the scores, or where no attention is paid; None for neither.
        :return: tokens of the same shape, and None.
        """
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        parts = ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer, x in parts)
        if attn_mask is not None and attn_mask.ndim == 3:  # one for each head of each sample
            attn_mask = attn_mask.unflatten(0, (-1, self.num_heads))
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = ~attn_mask  # there True keeps out, here it lets in
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        return y if self.batch_first else y.transpose(0, 1), None


def unfuse_attention(model: M) -> M:
    """Put :class:`UnfusedAttention` in the place of every ``nn.MultiheadAttention``, so that peft finds its layers.

    peft's files that :func:`~avalanche_vlm.models.modules.peft_files.export_peft` writes are then read by
    ``peft.PeftModel.from_pretrained(unfuse_attention(clip), folder)``. Features agree up to rounding.

    :param model: a model of open_clip's, changed in place.
    :return: the model itself.
    """
    for name, child in list(model.named_modules()):
        if isinstance(child, nn.MultiheadAttention):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, UnfusedAttention(child).train(child.training))
    return model
