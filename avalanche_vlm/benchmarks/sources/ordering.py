"""The order of names that have numbers in them. Python reads no number of some thousand digits, and a name may have
them: numbers are compared as texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_DIGITS = re.compile(r"(\d+)")


def natural(name: str) -> tuple[list, str]:
    """Sorts ``task2`` before ``task10``; the name itself breaks ties, so that no order depends on the disk.

    :param name: what is sorted by.

    >>> sorted(["b", "a10", "a2"], key=natural)
    ['a2', 'a10', 'b']
    """
    parts: list = _DIGITS.split(name.lower())  # text and digits in turn, and text at both ends
    parts[1::2] = map(by_size, parts[1::2])
    return parts, name


def by_size(digits: str) -> tuple[int, str]:
    """Sorts numbers by size, however many digits they have.

    :param digits: decimal digits of any script, one or more.

    >>> sorted(["10", "9", "1" + "0" * 5000, "007"], key=by_size)[:3]
    ['007', '9', '10']
    """
    plain = digits if digits.isascii() else "".join(str(unicodedata.decimal(digit)) for digit in digits)
    significant = plain.lstrip("0")
    return len(significant), significant


def sorted_labels(classes: Iterable[str]) -> list[str]:
    """Labels of classes, each once: by size where all of them are numbers, by the alphabet otherwise.

    :param classes: labels of the classes, in any order and as often as they occur.

    >>> sorted_labels(["10", "9"]), sorted_labels(["10", "9", "cat"])
    (['9', '10'], ['10', '9', 'cat'])
    """
    found = sorted(set(classes))
    return sorted(found, key=by_size) if all(text.isdecimal() for text in found) else found
