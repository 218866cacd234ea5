"""Figures and names as people read them: bytes with a unit, shares in percent, names in one line, text that is safe."""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from html import escape
from typing import TextIO

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"  # controls, and bytes that are no text
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # marks of direction
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet take a cell for a formula (OWASP, CSV Injection): full-width signs, too."""


LONGEST_NAME_MEANT = 100
"""Characters of a word that is compared with names, at most: it takes a time that grows with the square."""

MOST_NAMES_MEANT = 1000
"""Names that a word is compared with, at most: each takes its time, and a sentence is wanted at once."""


def human_bytes(count: float) -> str:
    """Bytes with a binary unit.

    >>> human_bytes(0), human_bytes(1536), human_bytes(-5 * 2**20)
    ('0 B', '1.5 KiB', '-5.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def percent(share: float) -> str:
    """A share, to three figures.

    >>> percent(1 / 8), percent(1 / 256), percent(1.0)
    ('12.5%', '0.391%', '100%')
    """
    return f"{100 * share:.3g}%"


def one_line(name: object) -> str:
    """A name within a sentence or a cell: whatever spaces, tabs and line breaks it has, one space for each run.

    >>> one_line("two\\nlines")
    'two lines'
    """
    return " ".join(str(name).split())


def in_short(text: str, most: int = 120) -> str:
    r"""The beginning of a text on one line.

    :param text: the text that is shortened.
    :param most: number of characters that are shown.

    >>> in_short("a long\nname", 6)
    'a long...'
    """
    shown = one_line(text)
    return shown if len(shown) <= most else f"{shown[:most]}..."


def brief(value: object) -> str:
    """A value that was given as a sentence can have it, however long it is.

    >>> brief("a" * 100), brief(3), brief(10**5000)
    ("'aaaaaaaaaaaa...aaaaaaaaaaaaa'", '3', 'a number of more than 4300 digits')

    :param value: what a user has given.
    """
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no longer ones
        return f"a number of more than {sys.get_int_max_str_digits()} digits"


def spelt_alike(name: object, known: Iterable[str], most: int = 3) -> list[str]:
    """Names that somebody may have meant who has written another, the nearest first; upper and lower case are one, and
    of names that differ in case alone the first counts. Among more than :data:`MOST_NAMES_MEANT` none is looked for.

    :param name: what was written.
    :param known: names that there are.
    :param most: number of names that are given, at most.

    >>> spelt_alike("ZSCLL", ["lora", "zscl", "zero-shot"]), spelt_alike("x" * 1000, ["x"])
    (['zscl'], [])
    """
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME_MEANT:
        return []
    by_lower: dict[str, str] = {}
    for one in known:
        if isinstance(one, str):
            by_lower.setdefault(one.lower(), one)
        if len(by_lower) > MOST_NAMES_MEANT:
            return []
    # Two swapped letters of three leave two in order; in longer words as small a share is another word.
    least = 0.66 if len(name) < 5 else 0.7
    return [by_lower[near] for near in get_close_matches(name.lower(), by_lower, most, cutoff=least)]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """What a sentence that refuses a name says behind it: which others are spelt alike, or nothing.

    :param name: what was written.
    :param known: names that there are.

    >>> f"no recipe is called 'zscll'{did_you_mean('zscll', ['zscl', 'lora'])}"
    "no recipe is called 'zscll' (did you mean zscl?)"
    """
    near = spelt_alike(name, known)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def in_markdown(words: str) -> str:
    r"""Words that Markdown and HTML leave alone, on one line.

    :param words: a name, or a sentence with names in it.

    >>> print(in_markdown("<b> a_b"))
    &lt;b&gt; a\_b
    """
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", escape(one_line(words), quote=False))


def as_cell(value: object) -> object:
    """A value as a cell of a CSV file that a spreadsheet may open: a text that the spreadsheet would take for a formula
    begins with an apostrophe. Numbers are as they are.

    :param value: a name of the user's, a number, or anything else.

    >>> as_cell("=1+2"), as_cell("@cat"), as_cell("cat"), as_cell(-1.5)
    ("'=1+2", "'@cat", 'cat', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def visible(text: object) -> str:
    r"""Text as it can be shown: what a terminal would obey (escapes, carriage returns, marks that turn the direction of
    writing round) and what is no character (bytes of a file name that are no text) as backslashes. Line breaks and tabs
    stay.

    :param text: anything with a name of the user's in it.

    >>> print(visible("caf\u00e9 \x1b[2J\udce9"))
    café \x1b[2J\udce9
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def tell(text: object = "", *, errors: bool = False) -> None:
    """Print a line. Every line that a command prints goes through here, whatever names are in it.

    :param text: the line, or several.
    :param errors: whether it goes to standard error.
    """
    stream: TextIO = sys.stderr if errors else sys.stdout
    encoding = stream.encoding or "utf-8"
    print(visible(text).encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=errors)
