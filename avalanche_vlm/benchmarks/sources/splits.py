"""The words for training, validation and test data, in folder names and in columns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Split = Literal["train", "valid", "test"]
"""The three parts of a data set; ``"valid"`` is Avalanche's name for the validation stream."""

_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def split_of(word: str) -> Split | None:
    """The part of a data set that a word names, in any case.

    :param word: a folder's name, or a field of a table.
    :return: the part; None for any other word.

    >>> split_of("Validation"), split_of("dogs")
    ('valid', None)
    """
    return _WORDS.get(word.strip().lower())


def are_splits(names: Iterable[str]) -> bool:
    """Whether folders that lie side by side are the parts of one data set: training data and some to measure on.

    :param names: names of the folders.

    >>> are_splits(["train", "val"]), are_splits(["train", "bus"]), are_splits(["train"])
    (True, False, False)
    """
    found = {split_of(name) for name in names}
    return "train" in found and len(found) > 1 and None not in found
