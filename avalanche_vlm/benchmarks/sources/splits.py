"""The words for training, validation and test data, in folder names and in columns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "valid", "test"]
"""The three parts of a data set; ``"valid"`` is Avalanche's name for the validation stream."""

_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_ENDS = re.compile(r"([_\-. ]?(set|split|folder|data|dataset|images?|imgs?|(19|20)\d\d))+")
"""What data sets put behind the word, as in COCO's ``train2017``, ``test_set`` and ``training_images``."""


def split_of(word: str) -> Split | None:
    """The part of a data set that a word names, in any case, with a year, ``set``, ``images`` or the like behind it.

    :param word: a folder's name, or a field of a table.
    :return: the part; None for any other word.

    >>> split_of("Validation"), split_of("val2017"), split_of("dogs")
    ('valid', 'valid', None)
    """
    word = word.strip().lower()
    return _WORDS.get(word) or next(
        (split for stem, split in _WORDS.items() if word.startswith(stem) and _ENDS.fullmatch(word[len(stem) :])), None
    )


def is_plain(word: str) -> bool:
    """Whether a word is nothing but the name of a part, without a year or the like behind it.

    :param word: a folder's name.

    >>> is_plain("Train"), is_plain("train2017")
    (True, False)
    """
    return word.strip().lower() in _WORDS.keys() - {"trainval"}  # PASCAL VOC's name for two parts


def are_splits(names: Iterable[str]) -> bool:
    """Whether folders that lie side by side are the parts of one data set: training data and some to measure on.

    :param names: names of the folders.

    >>> are_splits(["train", "val"]), are_splits(["train", "bus"]), are_splits(["train"])
    (True, False, False)
    """
    found = {split_of(name) for name in names}
    return "train" in found and len(found) > 1 and None not in found
