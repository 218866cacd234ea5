"""Coupled prompts: those of the image tower are linear functions of those of the text tower (MaPLe, arXiv 2210.03117).

They are one module at one place, which both towers have: what a pool saves, freezes or drops is always the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from avalanche_vlm.models.modules.blocks import image_blocks
from avalanche_vlm.models.modules.tokens import AppendedTokens, PromptTokens, TextPrompts, install_context

if TYPE_CHECKING:
    from avalanche_vlm.models.vlm import VLM


class CoupledTokens(PromptTokens):
    """Text prompts, and for every block a linear function of them to visual prompts (arXiv 2210.03117, section 3.2).

    :param depth: how many blocks have their own, at least 1.
    :param length: vectors per block, at least 1.
    :param width: width of the text tower's activations.
    :param image_width: width of the image tower's activations.
    """

    def __init__(self, depth: int, length: int, width: int, image_width: int) -> None:
        super().__init__(depth, length, width)
        self.couplings = nn.ModuleList(nn.Linear(width, image_width) for _ in range(depth))

    def visual(self, depth: int) -> torch.Tensor:
        """The visual prompts of one block ``[length, image_width]``, counted from 0."""
        return self.couplings[depth](self.vectors[depth])


class CoupledPrompts(TextPrompts):
    """The place of coupled prompts: on the text tower as :class:`~avalanche_vlm.models.modules.tokens.TextPrompts`, and
    on the image tower's blocks.

    :param model: the model whose towers get the prompts.
    :param length: vectors per block in either tower, at least 1.
    :param depth: the first blocks, which get vectors of their own; at most as many as the shorter tower has.
    :param words: what the context starts as; empty for random vectors.
    """

    def __init__(self, model: VLM, length: int, depth: int, words: str = "") -> None:
        blocks = image_blocks(model.tower("image"))
        super().__init__(model, length, min(depth, len(blocks.layers)), words)
        self.image_width = blocks.width
        AppendedTokens(self, self.visual, blocks, self.depth, length)

    def build(self) -> nn.Module:
        """New coupled prompts."""
        return self.start_with_words(CoupledTokens(self.depth, self.length, self.width, self.image_width))

    def visual(self, number: int) -> torch.Tensor:
        """The active module's visual prompts for one block ``[length, D]``."""
        return self.module.visual(number)


def inject_coupled_prompts(
    model: VLM, *, length: int = 2, depth: int = 9, words: str = "a photo of a"
) -> dict[str, CoupledPrompts]:
    """Give both towers of a model coupled prompts; the defaults are the published settings for 12 blocks.

    :param model: its towers change in place, and are the same until a module works.
    :param length: vectors per block in either tower, at least 1; as many tokens less are left to the texts.
    :param depth: the first blocks, which get vectors of their own; at most as many as the shorter tower has.
    :param words: what the context starts as, at least as many tokens as its length; empty for random vectors.
    :return: the one place, by the name of the token embedding.
    :raises InputError: for other numbers, too few words, and towers that prompts cannot enter.
    """
    return install_context(model, CoupledPrompts(model, length, depth, words))
