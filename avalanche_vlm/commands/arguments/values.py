"""Single words of the command line: what a number, a seed or a list of names may be.

Each function takes the word as it was written and gives its value, as :mod:`argparse` asks of a type.
"""

from __future__ import annotations

import argparse
import math

from avalanche_vlm.training.settings import LARGEST, MOST_WORKERS
from avalanche_vlm.units import brief


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas, without the blanks around them.

    :param text: the word as it was written.

    >>> names("zscl, lora")
    ('zscl', 'lora')
    """
    return tuple(name.strip() for name in text.split(","))


def count(text: str) -> int:
    """A whole number of 0 or more.

    :param text: the word as it was written.
    :raises argparse.ArgumentTypeError: if it is none.
    """
    return _whole(text, 0)


def positive(text: str) -> int:
    """A whole number of 1 or more.

    :param text: the word as it was written.
    :raises argparse.ArgumentTypeError: if it is none.
    """
    return _whole(text, 1)


def seed_number(text: str) -> int:
    """A seed that torch's generators take.

    :param text: the word as it was written.
    :raises argparse.ArgumentTypeError: if it is none.
    """
    return _whole(text, 0, 2**64 - 1, "torch's random generators take no larger seed")


def seed_numbers(text: str) -> tuple[int, ...]:
    """Seeds separated by commas, each once: counted twice, one experiment would pass for a spread of zero.

    :param text: the word as it was written.
    :raises argparse.ArgumentTypeError: if one of them is no seed.

    >>> seed_numbers("1,0,1")
    (1, 0)
    """
    return tuple(dict.fromkeys(seed_number(part) for part in text.split(",")))


def threads(text: str) -> int:
    """A number of threads.

    :param text: the word as it was written.
    :raises argparse.ArgumentTypeError: if it is none.
    """
    return _whole(text, 1, 4096, "no machine runs more at once")


def workers(text: str) -> int:
    """A number of processes that load data, 0 for none beside the main one.

    :param text: the word as it was written.
    :raises argparse.ArgumentTypeError: if it is none.
    """
    return _whole(text, 0, MOST_WORKERS, "no machine runs more at once")


def rate(text: str) -> float:
    """A finite number of 0 or more, up to :data:`~avalanche_vlm.training.settings.LARGEST`.

    :param text: the word as it was written.
    :raises argparse.ArgumentTypeError: if it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a finite number of 0 or more")
    if value > LARGEST:
        raise argparse.ArgumentTypeError(f"{brief(text)} is above {LARGEST:g}: no quantity here is so large")
    return value


def minutes(text: str) -> float | None:
    """A finite number of 0 or more, or the word ``none``.

    :param text: the word as it was written.
    :return: the number; None for the word.
    :raises argparse.ArgumentTypeError: if it is neither.

    >>> minutes("0.5"), minutes("none")
    (0.5, None)
    """
    try:
        return None if text == "none" else rate(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{brief(text)} is neither a finite number of 0 or more nor none") from error


def _whole(text: str, least: int, most: int = 2**63 - 1, why: str = "no computer counts so far") -> int:
    digits = text.strip().lstrip("0") or "0"
    if not text.strip().isdecimal() or (digits == "0" and least > 0):
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a whole number of {least} or more")
    # Python itself refuses to read some thousand digits.
    if len(digits) > len(str(most)) or int(digits) > most:
        raise argparse.ArgumentTypeError(f"{brief(text)} is above {most}: {why}")
    return int(digits)
