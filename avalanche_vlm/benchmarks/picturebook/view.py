"""How the picturebook is read where no model says otherwise: its own transform and the words of its captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from avalanche_vlm.benchmarks.picturebook.captions import vocabulary
from avalanche_vlm.benchmarks.picturebook.render import SIDE
from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer
from avalanche_vlm.benchmarks.scenario import PairTransform
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


class Reading(NamedTuple):
    """How pictures and captions become a model's input.

    :param train: transform of training pictures.
    :param test: transform of test pictures.
    :param tokenizer: function from a list of texts to tokens ``[N, L]``.
    """

    train: Callable
    test: Callable
    tokenizer: Callable

    @classmethod
    def of(cls, train: Callable | None, test: Callable | None, tokenizer: Callable | None) -> Reading:
        """The model's where it is given, and the picturebook's own where it is not.

        :param train: transform of training pictures; by default that of test pictures.
        :param test: transform of test pictures, or None.
        :param tokenizer: function from a list of texts to tokens ``[N, L]``, or None.
        """
        test = test or native_transform()
        return cls(train or test, test, tokenizer or native_tokenizer())

    def train_pairs(self) -> PairTransform:
        """The transform of training pictures with their captions."""
        return PairTransform(self.train, self.tokenizer)

    def test_pairs(self) -> PairTransform:
        """The transform of test pictures with their captions."""
        return PairTransform(self.test, self.tokenizer)
