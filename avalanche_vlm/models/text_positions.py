"""Texts of no more positions than their features depend on.

Tokenizers pad every text to the tower's whole context, 77 tokens where a prompt has ten, and open_clip's
``encode_text`` computes all of them. What comes behind the position that is pooled has no say in a causal tower, nor
has padding where attention is kept from it; without these positions features and gradients are the same but for the
order in which numbers are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm.benchmarks.padding import Padding

Until = Literal["end", "padding", "padding and one more"]

LEAST = 16
"""Positions that a model computes at least of texts whose features are no part of a training step. Sums over fewer than
the widest vector instruction holds are made in another order; from there on a text's features are, bit for bit, what
they are beside longer texts: a class's do not depend on names that nobody knows yet."""


@dataclass(frozen=True)
class TextPositions:
    """Which positions of a text its features depend on.

    :param until: ``"end"``, those up to the token that is pooled; ``"padding"``, those up to the last one that is no
        padding; ``"padding and one more"``, one of the padding besides.
    :param end: id of the token that is pooled; None for the largest id of each text, as in OpenAI's CLIP.
    :param pad: id of the padding.
    """

    until: Until
    end: int | None = None
    pad: int = 0

    def needed(self, tokens: torch.Tensor) -> torch.Tensor:
        """How many positions each text needs, ``[N]``, from 1 to L.

        :param tokens: token ids ``[N, L]``.
        """
        if self.until == "end":
            return 1 + (tokens.argmax(1) if self.end is None else (tokens == self.end).int().argmax(1))
        written = tokens != self.pad
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        needed = (written * places).amax(1) + (self.until == "padding and one more")
        return needed.clamp(1, tokens.shape[1])

    def length(self, padding: Padding, columns: int) -> int:
        """How many positions texts of a padding need at most, from 1 to L: told from it alone, without the tokens.

        :param padding: the padding of the texts.
        :param columns: the L tokens of each text, padding included.

        >>> TextPositions("end").length(Padding(5, 0), 77), TextPositions("padding", pad=1).length(Padding(5, 0), 77)
        (5, 77)
        """
        if self.until != "end" and padding.token != self.pad:
            return columns  # what is repeated is no padding to this tower, but a word
        # The token that is repeated may be the one that is pooled, and then its first place counts.
        last = padding.token != 0 if self.end is None else padding.token == self.end
        more = last if self.until == "end" else self.until == "padding and one more"
        return min(max(padding.start + more, 1), columns)

    def cut(self, tokens: torch.Tensor, padding: Padding | None = None, least: int = 1) -> torch.Tensor:
        """Token ids ``[N, L]`` without the positions that no text of them needs, ``[N, L']``. Where their padding is
        not told and the tokens are on an accelerator, this waits for it; on the meta device, where there are none, all
        positions stay.

        :param tokens: token ids ``[N, L]``.
        :param padding: the padding of these texts, or of more texts that they are among.
        :param least: positions that stay, where there are so many.

        >>> TextPositions("end").cut(torch.tensor([[1, 5, 9, 0, 0], [1, 9, 0, 0, 0]])).tolist()
        [[1, 5, 9], [1, 9, 0]]
        """
        if padding is not None:
            return tokens[:, : max(least, self.length(padding, tokens.shape[1]))]
        if tokens.numel() == 0 or tokens.is_meta:
            return tokens
        return tokens[:, : max(least, int(self.needed(tokens).max()))]


def text_positions(clip: Any) -> TextPositions | None:
    """Which positions a model's text tower needs; None if it needs all, or is of no kind that is known here.

    ====================================================  ========================================================
    tower                                                 needs
    ====================================================  ========================================================
    open_clip's, causal, pooled at the end token (CLIP)   up to the end token
    open_clip's with a class token (CoCa)                 up to the last word, and one padding more: the mask of the
                                                          published weights stands one position too far
    open_clip's, attending both ways, padding masked      up to the last word
    open_clip's, attending both ways, no mask (SigLIP)    all
    Hugging Face's                                        up to the last word, by the attention mask
    ====================================================  ========================================================

    :param clip: any of open_clip's models.
    """
    found = _known(clip)
    return found if isinstance(found, TextPositions) else None


def why_whole(clip: Any) -> str:
    """Why all positions of a text are computed, a clause with the tower as its subject; empty where they are not.

    :param clip: any of open_clip's models.
    """
    found = _known(clip)
    return found if isinstance(found, str) else ""


def _known(clip: Any) -> TextPositions | str:
    """What a text tower needs, or why it is everything. Code that is not open_clip's own may read texts in any way."""
    from open_clip.coca_model import CoCa
    from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder, MeanPooler
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    own = (CLIP.encode_text, CustomTextCLIP.encode_text, CoCa.encode_text)
    if getattr(type(clip), "encode_text", None) not in own:
        return f"a {type(clip).__name__} encodes texts in a way of its own"
    if isinstance(clip, CLIP):
        tower, pool, end = clip, clip.text_pool_type, clip.text_eos_id
        class_token, pad_masked = None, False
    else:
        tower = clip.text
        reads = getattr(type(tower), "forward", None)
        if reads is HFTextEncoder.forward:
            filler = getattr(tower.config, "pad_token_id", None)
            if type(tower.pooler) not in (MeanPooler, ClsPooler, ClsLastHiddenStatePooler):
                return f"may pool padding, by its {type(tower.pooler).__name__}"
            return "has no token for padding" if filler is None else TextPositions("padding", pad=int(filler))
        if reads is not TextTransformer.forward:
            return f"reads texts in a way of its own, that of a {type(tower).__name__}"
        pool, end, class_token, pad_masked = tower.pool_type, tower.eos_id, tower.cls_emb, tower.use_pad_mask
    pad = int(getattr(tower, "pad_id", 0))
    if class_token is not None:
        if tower.attn_mask is None:
            return "has words that attend to a class token behind the padding"
        return TextPositions("padding" if tower.correct_cls_mask else "padding and one more", pad=pad)
    if pool not in ("argmax", "eos"):
        return f"pools by {pool!r}, not at the end of a text"
    if tower.attn_mask is not None:
        return TextPositions("end", end=end if pool == "eos" else None)
    if not pad_masked or (pool == "eos" and end == pad):
        return "attends to the padding"
    return TextPositions("padding", pad=pad)


def encode_short(clip: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What a model's ``encode_text`` gives for texts of fewer positions than its context, before normalisation.

    :param clip: a model whose :func:`text_positions` are known.
    :param tokens: token ids ``[N, L']``, with all positions that they need.
    :return: features ``[N, D]``.
    """
    tower = getattr(clip, "text", None) or clip
    if not hasattr(tower, "attn_mask") or tokens.shape[1] == context_of(clip):
        return clip.encode_text(tokens, normalize=False)
    return _through_blocks(tower, tokens)


def context_of(clip: Any) -> int | None:
    """Tokens that a text tower takes at most; None where it has no such limit of its own.

    :param clip: any of open_clip's models.
    """
    tower = getattr(clip, "text", None) or clip
    positions = getattr(tower, "positional_embedding", None)
    return None if positions is None else len(positions) - (getattr(tower, "cls_emb", None) is not None)


def _through_blocks(tower: Any, tokens: torch.Tensor) -> torch.Tensor:
    """open_clip's text tower on the positions that are there, and on the class token if it has one. Its own modules do
    the work, so that what is hooked into them or has taken their place takes part."""
    length, kind = tokens.shape[1], tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens).to(kind)
    positions = tower.positional_embedding[:length]
    class_token = getattr(tower, "cls_emb", None)
    if class_token is not None:
        x = torch.cat([x, class_token.to(kind).expand(len(x), 1, -1)], 1)
        positions = torch.cat([positions, tower.positional_embedding[-1:]])
    x = tower.transformer(x + positions.to(kind), attn_mask=_mask(tower, tokens, x))
    x = _pooled(tower, tower.ln_final(x), tokens) if class_token is None else tower.ln_final(x[:, -1])
    projection = tower.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection


def _mask(tower: Any, tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
    """Where attention is not paid, among these positions and the class token: rows and columns of the tower's mask."""
    length, size = tokens.shape[1], x.shape[1]
    kept = torch.arange(size, device=x.device)
    if size > length:
        kept[-1] = len(tower.positional_embedding) - 1
    mask = tower.attn_mask
    if mask is not None:
        mask = mask[:length, :length] if size == length else mask[kept][:, kept]
    if size == length and not getattr(tower, "use_pad_mask", False):
        return mask
    written = F.pad(tokens != tower.pad_id, (0, len(tower.positional_embedding) - size))
    if size > length:
        written = F.pad(written, (0, 1) if tower.correct_cls_mask else (1, 0), value=True)
    hidden = torch.zeros_like(written[:, kept], dtype=x.dtype).masked_fill(~written[:, kept], float("-inf"))
    hidden = hidden[:, None].expand(-1, size, -1).repeat_interleave(tower.heads, 0)
    return hidden if mask is None else mask + hidden


def _pooled(tower: Any, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The activations ``[N, D]`` at each text's end."""
    if (getattr(tower, "pool_type", None) or getattr(tower, "text_pool_type", "argmax")) == "argmax":
        places = tokens.argmax(1)
    else:
        end = tokens == getattr(tower, "eos_id", getattr(tower, "text_eos_id", None))
        places = torch.as_tensor(end).int().argmax(1)
    return x[torch.arange(len(x), device=x.device), places]
