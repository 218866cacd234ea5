"""Prompts among the tokens: learned vectors that a frozen tower attends to beside its own.

The image tower has them at the end of its sequence, where the class token keeps its place, and loses them again before
it pools (VPT: Jia et al., arXiv 2203.12119). The text tower has them between its start token and the words, as if they
were words (CoOp: Zhou et al., arXiv 2109.01134). In both, a prompt of depth 1 enters before the first block and travels
through all of them; with more, each of the first blocks gets fresh vectors in the place of what the block before made
of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from avalanche_vlm._host import on_host
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.modules.blocks import TowerBlocks, image_blocks, open_clip_blocks
from avalanche_vlm.models.modules.site import HookedSite, Site, attach_site
from avalanche_vlm.models.text_positions import context_of

if TYPE_CHECKING:
    from avalanche_vlm.models.vlm import VLM


Context = TypeVar("Context", bound="TextPrompts")

CONTEXT = "a learned context of texts"
"""Who takes a model's text path, in an error."""


class PromptTokens(nn.Module):
    """Vectors for the first blocks of a tower, from a normal distribution.

    The published codes of CoOp, MaPLe and S-Prompts start them with a standard deviation of 0.02, or about that.

    :param depth: how many blocks have their own, at least 1.
    :param length: vectors per block, at least 1.
    :param width: width of the tower's activations.
    :param std: standard deviation of the initial vectors.
    """

    def __init__(self, depth: int, length: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(depth, length, width))
        nn.init.normal_(self.vectors, std=std)

    def forward(self, depth: int) -> torch.Tensor:
        """Those of one block ``[length, width]``, counted from 0."""
        return self.vectors[depth]


def text_tower(model: VLM) -> tuple[Any, TowerBlocks]:
    """The module that embeds a model's tokens, and its blocks.

    :raises InputError: if the text tower is not open_clip's own.
    """
    root = getattr(model.clip, "text", None) or model.clip
    blocks = open_clip_blocks(root)
    if blocks is None or not isinstance(getattr(root, "token_embedding", None), nn.Embedding):
        raise InputError(
            f"prompts cannot enter {model.name}'s text tower: a {type(root).__name__} has no token_embedding in front "
            "of residual blocks"
        )
    return root, blocks


def splice(x: torch.Tensor, vectors: torch.Tensor, start: int, replaced: int, dim: int) -> torch.Tensor:
    """Put vectors into every sequence of a batch.

    :param x: ``[B, L, D]`` with ``dim`` 1, ``[L, B, D]`` with 0.
    :param vectors: ``[n, D]``, the same for every sequence.
    :param start: where the first one comes.
    :param replaced: how many of the old ones they replace.

    >>> splice(torch.zeros(1, 3, 1), torch.ones(2, 1), 1, 1, dim=1).flatten().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    shape = list(x.shape)
    shape[dim] = len(vectors)
    vectors = vectors.to(x.dtype).unsqueeze(1 - dim).expand(shape)
    before, after = x.narrow(dim, 0, start), x.narrow(dim, start + replaced, x.shape[dim] - start - replaced)
    return torch.cat([before, vectors, after], dim)


class AppendedTokens:
    """Hooks on an image tower's blocks, by which a site's vectors come in at the sequence's end and go out again.

    :param site: they work while it has an active module.
    :param vectors: gives the ones of a block ``[length, D]``, by its number.
    :param blocks: the tower's residual blocks.
    :param depth: the first blocks, which get vectors of their own.
    :param length: vectors per block, at least 1.
    """

    def __init__(
        self, site: Site, vectors: Callable[[int], torch.Tensor], blocks: TowerBlocks, depth: int, length: int
    ) -> None:
        self.site, self.vectors, self.length, self.dim = site, vectors, length, blocks.dim
        # Bound methods and partials of them, so that deepcopy and pickle work.
        for number, layer in enumerate(blocks.layers[:depth]):
            layer.register_forward_pre_hook(partial(self.enter, number))
        blocks.layers[-1].register_forward_hook(self.leave)

    def enter(self, number: int, _layer: nn.Module, inputs: tuple) -> tuple | None:
        """Hook before a block: its vectors come in, or take the place of those of the block before."""
        if self.site.active is None:
            return None
        x, *others = inputs
        replaced = self.length if number else 0
        return splice(x, self.vectors(number), x.shape[self.dim] - replaced, replaced, self.dim), *others

    def leave(self, _layer: nn.Module, _inputs: tuple, x: torch.Tensor) -> torch.Tensor | None:
        """Hook behind the last block: the vectors go out."""
        # Pooling over the whole sequence is to see what it sees without prompts.
        return None if self.site.active is None else x.narrow(self.dim, 0, x.shape[self.dim] - self.length)


class ImagePrompts(HookedSite):
    """The place of visual prompts in an image tower.

    :param blocks: the tower's residual blocks.
    :param length: vectors per block, at least 1.
    :param depth: the first blocks, which get vectors of their own; at most all.
    """

    def __init__(self, blocks: TowerBlocks, length: int, depth: int) -> None:
        super().__init__(blocks.host)
        self.length, self.depth, self.width = length, min(depth, len(blocks.layers)), blocks.width
        AppendedTokens(self, self.vectors, blocks, self.depth, length)

    def build(self) -> nn.Module:
        """New visual prompts."""
        return PromptTokens(self.depth, self.length, self.width)

    def vectors(self, number: int) -> torch.Tensor:
        """The active module's for one block ``[length, D]``."""
        return self.module(number)


class TextPrompts(HookedSite):
    """The place of learned context in a text tower: behind the start token, or first of all where the model's tokenizer
    writes none.

    The tokens move on to make room, so that pooling, masks and positions count as they would with as many words more.
    Whoever encodes texts has to call :meth:`through`, and a :class:`~avalanche_vlm.models.VLM` does by its
    ``text_path``; for all others the tower is the plain one.

    :param model: the model whose text tower it is.
    :param length: vectors per block, at least 1.
    :param depth: the first blocks, which get vectors of their own; at most all.
    :param words: the first block's vectors start as the embeddings of these words' first tokens; empty for random ones.
    :raises InputError: if the tower has no token embedding, its texts have a context already, or the words are fewer.
    """

    def __init__(self, model: VLM, length: int, depth: int, words: str = "") -> None:
        whole(length, 1, "the length of a text prompt")
        whole(depth, 1, "the depth of prompts")
        model.slots.check("text_path", CONTEXT)
        root, blocks = text_tower(model)
        super().__init__(root.token_embedding)
        empty, first, other = model.tokenizer(["", "a", "of"])
        self.length, self.depth = length, min(depth, len(blocks.layers))
        self.width, self.dim = blocks.width, blocks.dim
        self.__dict__["transformer"] = blocks.host  # the tower's child, not this one's
        self.positions = context_of(model.clip) or empty.numel()
        self.pad = int(empty[-1])
        self.start = int(first[0] == other[0])
        self.words: list[int] = []
        if words:
            ids = model.tokenizer([words])[0]
            known = int((ids != self.pad).sum() - (empty != self.pad).sum())
            if known < length:
                raise InputError(f"a context of {length} vectors cannot start as {words!r}, which has {known} tokens")
            self.words = ids[self.start : self.start + length].tolist()
        self._inserted = False
        root.token_embedding.register_forward_hook(self.embedded)
        for number, layer in enumerate(blocks.layers[1 : self.depth], start=1):
            layer.register_forward_pre_hook(partial(self.enter, number))

    @property
    def cannot(self) -> dict[str, str]:
        """Options of a training that it does not go with, and why."""
        why = "blocks that run once more do not know any more which text their vectors below the first one are for"
        return {"grad_checkpointing": why} if self.depth > 1 else {}

    def build(self) -> nn.Module:
        """A new context."""
        return self.start_with_words(PromptTokens(self.depth, self.length, self.width))

    @torch.no_grad()
    def start_with_words(self, module: PromptTokens) -> PromptTokens:
        """Give the first block's vectors the values that they start with."""
        if self.words:
            module.vectors[0] = self.host.weight[self.words]
        return module

    def through(self, encode: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
        """Features ``[B, D]`` of token ids ``[B, L]``, with the active module's context if there is one.

        :param encode: the tower, token ids to features.
        :raises InputError: if a text leaves no room for it, or vectors below the first block train in a tower that
            checkpoints its activations.
        """
        if self.active is None:
            return encode(tokens)
        if self.depth > 1 and torch.is_grad_enabled() and getattr(self.transformer, "grad_checkpointing", False):
            # The backward pass runs the blocks again, when nobody knows any more where the text came from.
            raise InputError("the text tower checkpoints its activations: switch that off to train deep prompts")
        inserted = self.insert(tokens)
        self._inserted = True
        try:
            return encode(inserted)
        finally:
            self._inserted = False

    def insert(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token ids ``[B, L]`` with room for the context, ``[B, L']``: texts grow longer, up to the tower's positions,
        and what is still missing comes from the padding.

        :raises InputError: if there is not enough.
        """
        missing = max(0, tokens.shape[1] + self.length - self.positions)
        left = tokens.shape[1] - missing
        # A program of torch.export has no branch that depends on the tokens.
        padding = (
            missing == 0
            or torch.compiler.is_exporting()
            or not bool((on_host(tokens)[:, max(left, 0) :] != self.pad).any())
        )
        if left <= self.start or not padding:
            longest = int((tokens != self.pad).any(0).nonzero().max()) + 1
            raise InputError(
                f"a context of {self.length} vectors leaves {max(self.positions - self.length, 0)} of the text tower's "
                f"{self.positions} positions, and a text takes {longest} with its marks: learn a shorter context, or "
                "use shorter prompts"
            )
        # Any token will do that is no padding and not the end; the first one is neither.
        room = tokens[:, :1].expand(-1, self.length)
        return torch.cat([tokens[:, : self.start], room, tokens[:, self.start : left]], dim=1)

    def embedded(self, _layer: nn.Module, _inputs: tuple, x: torch.Tensor) -> torch.Tensor | None:
        """Hook behind the token embedding: the context takes the room that was made for it."""
        return splice(x, self.module(0), self.start, self.length, dim=1) if self._inserted else None

    def enter(self, number: int, _layer: nn.Module, inputs: tuple) -> tuple[Any, ...] | None:
        """Hook before a later block: its own vectors take the place of those of the block before."""
        if not self._inserted:
            return None
        x, *others = inputs
        return splice(x, self.module(number), self.start, self.length, self.dim), *others


def inject_image_prompts(tower: nn.Module, *, length: int = 10, depth: int = 1) -> dict[str, ImagePrompts]:
    """Give an image tower visual prompts (arXiv 2203.12119): shallow with depth 1, deep with more.

    :param tower: ``model.tower("image")``; changed in place, and the same until a module works.
    :param length: vectors per block, at least 1.
    :param depth: the first blocks, which get vectors of their own; at most all.
    :return: the place, by the name of what holds the blocks.
    :raises InputError: for other numbers, and if the tower is not a stack of blocks that pass tokens on.
    """
    whole(length, 1, "the length of a visual prompt")
    whole(depth, 1, "the depth of prompts")
    blocks = image_blocks(tower)
    site = ImagePrompts(blocks, length, depth)
    attach_site(tower, blocks.name, "prompts", site)
    return {blocks.name: site}


def inject_text_prompts(model: VLM, *, length: int = 4, depth: int = 1, words: str = "") -> dict[str, TextPrompts]:
    """Give a model's texts a learned context (arXiv 2109.01134), with deep vectors if the depth is above 1 (arXiv
    2210.03117, section 3.2).

    :param model: its text tower changes in place, and is the same until a module works.
    :param length: vectors per block, at least 1; as many tokens less are left to the texts.
    :param depth: the first blocks, which get vectors of their own; at most all.
    :param words: what the context starts as, at least as many tokens as its length; empty for random vectors.
    :return: the place, by the name of the token embedding.
    :raises InputError: for other numbers, too few words, and if the tower has no token embedding in front of blocks.
    """
    return install_context(model, TextPrompts(model, length, depth, words))


def install_context(model: VLM, site: Context) -> dict[str, Context]:
    """Make a context the text tower's own, and put it into the texts' way."""
    attach_site(text_tower(model)[0], "token_embedding", "prompts", site)
    model.install("text_path", site.through, CONTEXT)
    return {"token_embedding": site}
