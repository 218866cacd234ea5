"""The few pieces that every chart is made of. Whatever comes from outside is escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from unicodedata import combining, east_asian_width

from avalanche_vlm.report.rounding import show


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element; ``class_`` is class, ``stroke_width`` is stroke-width.

    :param content: markup inside the element.
    :param attributes: their values are escaped; numbers get one decimal, None is left out.

    >>> tag("text", escape("<a>"), x=1.50, class_="b")
    '<text x="1.5" class="b">&lt;a&gt;</text>'
    """
    parts = []
    for key, value in attributes.items():
        if value is None:
            continue
        shown = f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    return f"<{name}{''.join(parts)}>{content}</{name}>"


def breadth(words: str) -> int:
    """How many Latin letters some words are as wide as: a letter of East Asia as two, a mark on another as none.

    >>> breadth("cat"), breadth("\\u732b"), breadth("e\\u0301")
    (3, 2, 1)
    """
    if words.isascii():
        return len(words)
    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in words)


def shortened(words: str, limit: int) -> str:
    """Words that are no broader than a limit, cut if need be.

    :param limit: the limit in Latin letters; 0 for none.

    >>> shortened("a long name", 6), shortened("cat", 0), len(shortened("\\u732b\\u732b\\u732b", 5))
    ('a lon…', 'cat', 3)
    """
    if not limit or breadth(words) <= limit:
        return words
    room, end = limit - 1, 0
    while (room := room - breadth(words[end])) >= 0:
        end += 1
    return words[:end] + "…"


def label(words: str, x: float, y: float, limit: int = 0, **attributes: object) -> str:
    """Words at a place; longer than ``limit`` they are cut, and a tooltip has all of them."""
    shown = shortened(words, limit)
    tip = tag("title", escape(words)) if shown != words else ""
    return tag("text", escape(shown) + tip, x=float(x), y=float(y), **attributes)


def figure(value: float | None, kind: str, path: str, x: float, y: float, tip: str = "", **attributes: object) -> str:
    """A number at a place, with the path that leads to it in the content."""
    content = escape(show(value, kind)) + (tag("title", escape(tip)) if tip else "")
    return tag("text", content, x=float(x), y=float(y), data_path=path, data_kind=kind, **attributes)


def picture(content: str, width: float, height: float, title: str, kind: str, natural: bool = False) -> str:
    """The drawing. ``natural`` keeps its size, and its box scrolls; otherwise it takes the width that it is given."""
    size = {"width": f"{width:.0f}", "height": f"{height:.0f}"} if natural else {}
    return tag(
        "svg",
        tag("title", escape(title)) + content,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        **size,
        role="img",
        aria_label=title,
        class_=f"chart {kind}",
    )


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover a range.

    >>> ticks(0, 17.3), ticks(0.31, 0.36), ticks(5, 5)
    ([0, 5, 10, 15, 20], [0.3, 0.32, 0.34, 0.36], [4.5, 5.0, 5.5])
    """
    if not high > low:
        half = max(abs(low) * 0.1, 0.01)
        low, high, count = low - half, high + half, 2
    rough = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(s * magnitude for s in (1, 2, 2.5, 5, 10) if s * magnitude >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    whole = step >= 1 and step == int(step)
    return [int(k * step) if whole else round(k * step, 10) for k in range(first, last + 1)]


def tick_text(values: Sequence[float]) -> list[str]:
    """Tick labels with as many decimals as tell them apart."""
    for decimals in range(6):
        shown = [f"{v:.{decimals}f}" for v in values]
        if all(abs(float(s) - v) < 1e-9 for s, v in zip(shown, values, strict=True)):
            break
    return shown


def spread_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, in their order, at least ``gap`` apart, inside a range where there is room.

    >>> spread_apart([5, 5, 20], 4, 0, 30)
    [3.0, 7.0, 20.0]
    """
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    clusters: list[list[float]] = []  # mean position, members
    for k in order:
        clusters.append([float(wanted[k]), 1])
        while len(clusters) > 1:
            (a, n), (b, m) = clusters[-2:]
            if b - a >= gap * (n + m) / 2:
                break
            clusters[-2:] = [[(a * n + b * m) / (n + m), n + m]]
    placed = [mean + gap * (i - (n - 1) / 2) for mean, n in clusters for i in range(int(n))]
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], high - gap * (len(placed) - 1 - i))
    for i in range(len(placed)):
        placed[i] = max(placed[i], low + gap * i)
    out = [0.0] * len(wanted)
    for position, k in zip(placed, order, strict=True):
        out[k] = position
    return out
