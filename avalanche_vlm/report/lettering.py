"""Names on plots, whatever script they are in: fonts that have their glyphs, or numbers where no font has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from avalanche_vlm.units import one_line

PLAIN = "DejaVu Sans"
"""The font that matplotlib brings itself, so that it is always there."""

_LONGEST = 40
"""Most letters of a name on a plot: of longer ones matplotlib finds no room for the axes beside them."""


CURVE = "score"
"""What the curve of a held-out set is called where no font has the letters of its name."""


def labels(names: Sequence[str], stem: str = "task") -> list[str]:
    """Names as a plot can show them: in one line, the middle of a long one left out; where no installed font has the
    glyphs of one, its position in the place of it.

    :param names: the names, in the order in which they are numbered.
    :param stem: what a number is the number of.
    :return: labels in the order of the names; :func:`key` says which names are behind numbers.

    >>> labels(["flowers", "\\x07"])
    ['flowers', 'task 2']
    """
    lines = [one_line(name) for name in names]
    _, missing = _fonts(frozenset("".join(lines)))
    short = [_short(line) for line in lines]
    found = []
    for i, label in enumerate(short, start=1):
        if missing & set(lines[i - 1]):
            found.append(f"{stem} {i}")
        elif label != lines[i - 1] and short.count(label) > 1:  # what tells them apart was left out
            found.append(f"{_short(label, _LONGEST - 7)} ({i})")
        else:
            found.append(label)
    return found


def key(names: Sequence[str], stem: str = "task") -> str | None:
    """The sentence that says what the numbers of :func:`labels` stand for; None if every name can be shown.

    :param names: the names, in the order in which they are numbered.
    :param stem: what a number is the number of.

    >>> key(["flowers", "\\x07"])
    "no installed font has the letters of some names, so plots number them: task 2 is '\\\\x07'"
    """
    _, missing = _fonts(frozenset("".join(map(one_line, names))))
    behind = [
        f"{label} is {name if name.isprintable() else repr(name)}"
        for label, name in zip(labels(names, stem), names, strict=True)
        if missing & set(one_line(name))
    ]
    if not behind:
        return None
    return f"no installed font has the letters of some names, so plots number them: {', '.join(behind)}"


def _short(name: str, most: int = _LONGEST) -> str:
    """Both ends of a name, which are where names differ; a name of no more than ``most`` letters as it is."""
    end = most // 3
    return name if len(name) <= most else f"{name[: most - end - 1]}\u2026{name[-end:]}"


def reach(shown: Sequence[str]) -> float:
    """About how many inches the longest of some labels takes in matplotlib's default size.

    :param shown: labels; letters from the first CJK block on are as wide as they are high.
    """
    return max(sum(0.14 if ord(letter) >= 0x2E80 else 0.09 for letter in label) for label in shown)


def set_in_fonts(figure: Figure) -> Figure:
    """Set all text of a figure in fonts that have its glyphs, and as it stands: a dollar sign is a dollar sign.

    :param figure: a finished figure; changed in place.
    :return: the figure itself, for use in an expression.
    """
    texts = [found for found in figure.findobj(Text) if isinstance(found, Text)]
    families, _ = _fonts(frozenset("".join(text.get_text() for text in texts)))
    for text in texts:
        text.set_parse_math(False)
        if len(families) > 1:
            text.set_fontfamily(families)
    return figure


def _fonts(characters: Iterable[str]) -> tuple[list[str], frozenset[str]]:
    """Families that together have as many of some characters as can be, and the characters that none has."""
    missing = frozenset(c for c in characters if c != "\n")
    unprintable = frozenset(c for c in missing if not c.isprintable())
    families = [PLAIN]
    missing = missing - unprintable - _covered(PLAIN)
    while missing:
        best = max(families_installed(), key=lambda family: len(missing & _covered(family)), default=PLAIN)
        if not missing & _covered(best):
            break
        families.append(best)
        missing -= _covered(best)
    return families, missing | unprintable


def families_installed() -> list[str]:
    """Names of the font families with a regular face that matplotlib finds, those with Sans in the name first."""
    return sorted(_regular(), key=lambda name: ("Sans" not in name, name))


@cache
def _regular() -> dict[str, str]:
    """The file of every family's regular face: what text is set in if no weight or slant is asked for."""
    faces = [f for f in font_manager.fontManager.ttflist if f.weight in (400, "normal", "regular")]
    upright = {f.name: f.fname for f in faces if f.style == "normal" and f.stretch == "normal"}
    # Last Resort has a glyph for every character, and it is a box.
    return {name: file for name, file in upright.items() if "lastresort" not in name.replace(" ", "").lower()}


@cache
def _covered(family: str) -> frozenset[str]:
    """The characters that a family's regular face has glyphs of."""
    try:
        return frozenset(map(chr, font_manager.get_font(_regular()[family]).get_charmap()))
    except (KeyError, OSError, RuntimeError, ValueError):  # a font that was removed or cannot be read has none
        return frozenset()
