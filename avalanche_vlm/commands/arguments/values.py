"""Single words of the command line: what a number, a seed or a list of names may be.

Each function takes the word as it was written and gives its value, as ``argparse`` asks of a type.
"""

from __future__ import annotations

import argparse
from typing import Any

from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.errors import InputError


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas, without the blanks around them.

    :param text: the word as it was written.

    >>> names("zscl, lora")
    ('zscl', 'lora')
    """
    return tuple(name.strip() for name in text.split(","))


class NumberWord:
    """Reads a declared number, or several that are separated by commas, each once: a seed counted twice would pass for
    a spread of zero.

    :param name: name of the number's declaration in :data:`~avalanche_vlm._numbers.NUMBERS`.
    :param several: whether there may be more than one.

    >>> NumberWord("seed", several=True)("1,0,1")
    (1, 0)
    """

    def __init__(self, name: str, several: bool = False) -> None:
        self.number, self.several = NUMBERS[name], several

    def __call__(self, text: str) -> Any:
        """The value.

        :param text: the word as it was written.
        :raises argparse.ArgumentTypeError: if it cannot be meant.
        """
        try:
            if self.several:
                return tuple(dict.fromkeys(map(self.number.read, text.split(","))))
            return self.number.read(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from error


class OrNone(NumberWord):
    """The same where nothing given stands for the default: the word for none stays.

    >>> OrNone("max_grad_norm")("none")
    'none'
    """

    def __call__(self, text: str) -> Any:
        """The value.

        :param text: the word as it was written.
        :raises argparse.ArgumentTypeError: if it cannot be meant.
        """
        return "none" if (read := super().__call__(text)) is None else read


def rate(text: str) -> tuple[str, float]:
    """A task and its peak learning rate, written ``TASK=LR``.

    :param text: the word as it was written.
    :raises argparse.ArgumentTypeError: if it cannot be meant.

    >>> rate("a=b=1e-3")
    ('a=b', 0.001)
    """
    task, equals, number = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not TASK=LR")
    return task, NumberWord("lr")(number)


def add_number(
    group: Any, name: str, *, option: str = "", says: str = "", unset: str = "", several: bool = False, **settings: Any
) -> None:
    """An option for a declared number: its range, and its words in the help.

    :param group: argparse's parser, or a group of it, which gets the option.
    :param name: name of the number's declaration in :data:`~avalanche_vlm._numbers.NUMBERS`.
    :param option: the option, where it has not the declared name.
    :param says: words for what it decides in this command, in place of the declared ones.
    :param unset: words for what holds if it is not given, in place of the declared ones.
    :param several: whether several may be given, separated by commas.
    :param settings: further settings of argparse's.
    """
    number = NUMBERS[name]
    words = f"{says or number.says} (default: {unset or number.unset})".replace("%", "%%")
    group.add_argument(
        option or number.option, **{"type": NumberWord(name, several), "metavar": "N", "help": words, **settings}
    )
