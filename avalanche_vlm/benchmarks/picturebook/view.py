"""How the picturebook is read where no model says otherwise: its own transform and the words of its captions."""

from __future__ import annotations

from avalanche_vlm.benchmarks.picturebook.captions import vocabulary
from avalanche_vlm.benchmarks.picturebook.render import SIDE
from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer
from avalanche_vlm.benchmarks.transforms import ImageTransform

MEAN = STD = (0.5, 0.5, 0.5)
CONTEXT_LENGTH = 20
"""Tokens per text, start and end included: captions have 13 words at most."""


def native_transform() -> ImageTransform:
    """Pictures at their own size, channels from -1 to 1."""
    return ImageTransform(SIDE, MEAN, STD)


def native_tokenizer() -> WordTokenizer:
    """A token for every word of the caption grammar."""
    return WordTokenizer(vocabulary(), CONTEXT_LENGTH)
