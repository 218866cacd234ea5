"""Figures and names as people read them: bytes with a unit, shares in percent, names in one line."""

from __future__ import annotations


def human_bytes(count: float) -> str:
    """Bytes with a binary unit.

    >>> human_bytes(0), human_bytes(1536), human_bytes(5 * 2**20)
    ('0 B', '1.5 KiB', '5.0 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
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
