"""Where the prompts of single samples enter an image tower: as tokens, or as keys and values of attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from avalanche_vlm._rows import own_rows
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.modules.attention import FusedAttention, TimmAttention, is_timm_attention
from avalanche_vlm.models.modules.blocks import TowerBlocks


class TokenPlace:
    """In front of all tokens at the first block's input, without a position, and gone again behind the last block.

    :param blocks: the tower's blocks, two of which get a hook.
    """

    def __init__(self, blocks: TowerBlocks) -> None:
        self.prompts: torch.Tensor | None = None
        """``[B, n, width]``, or None for a tower that is left alone."""
        self._dim = blocks.dim
        # Bound methods: a copy of the tower then asks the copy of this place.
        blocks.layers[0].register_forward_pre_hook(self._prepend)
        blocks.layers[-1].register_forward_hook(self._drop)

    def _prepend(self, block: nn.Module, args: tuple) -> tuple | None:
        if self.prompts is None:
            return None
        x, *others = args
        prompts = own_rows(self.prompts).to(x.dtype)
        return torch.cat([prompts if self._dim else prompts.transpose(0, 1), x], self._dim), *others

    def _drop(self, block: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        if self.prompts is None:
            return None
        count = self.prompts.shape[1]
        return output.narrow(self._dim, count, output.shape[self._dim] - count)


class PrefixAttention(FusedAttention):
    """open_clip's attention, in which every sample may have keys and values that stand in front of its tokens'.

    :param attention: the layer whose parameters are taken over.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.take_over(attention)
        self.prompts: torch.Tensor | None = None
        """Keys and values ``[B, 2, n, D]``, or None for attention among tokens alone."""

    @property
    def unchanged(self) -> bool:
        """Whether there are no prompts now."""
        return self.prompts is None

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, x: torch.Tensor
    ) -> torch.Tensor:
        """What the queries gather of tokens and prompts together."""
        if self.prompts is not None:
            if mask is not None:
                raise InputError("prompts of single samples enter attention without a mask, and this tower has one")
            k, v = _with_prefix(self.prompts, k, v)
        return super().attend(q, k, v, mask, x)


class TimmPrefixAttention(TimmAttention):
    """The same for timm's attention.

    :param attention: the layer whose parts are taken over.
    :raises InputError: if it is more than attention.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.take_over(attention)
        self.prompts: torch.Tensor | None = None
        """As in :class:`PrefixAttention`."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """What the queries gather of tokens and prompts together."""
        if self.prompts is not None:
            k, v = _with_prefix(self.prompts, k, v)
        return super().attend(q, k, v)


PromptPlace = TokenPlace | PrefixAttention | TimmPrefixAttention
"""Its ``prompts`` are what enters there."""


def put_prefixes(layers: Sequence[nn.Module]) -> list[PromptPlace]:
    """Let prefixes into the attention of these blocks.

    :return: one place per block.
    :raises InputError: if a block's attention is no attention that we know, or is adapted already; nothing has
        changed then.
    """
    places: list[PrefixAttention | TimmPrefixAttention] = []
    for block in layers:
        attention: Any = getattr(block, "attn", None)
        if type(attention) is nn.MultiheadAttention:
            places.append(PrefixAttention(attention))
        elif is_timm_attention(attention):
            places.append(TimmPrefixAttention(attention))
        else:
            raise InputError(f"prompts cannot enter attention that is a {type(attention).__name__}")
    for block, place in zip(layers, places, strict=True):
        block.attn = place.train(block.training)
    return list(places)


def _with_prefix(prompts: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values ``[B, heads, L, d]`` behind those of the prompts ``[B, 2, n, heads * d]``."""
    batch, heads, _, width = v.shape
    own = own_rows(prompts).view(batch, 2, -1, heads, width).transpose(2, 3)
    return torch.cat([own[:, 0].to(k.dtype), k], 2), torch.cat([own[:, 1].to(v.dtype), v], 2)
