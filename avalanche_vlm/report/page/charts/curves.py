"""Scores over the stream, one line per recipe, named where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from avalanche_vlm.report.page.charts.svg import breadth, figure, label, picture, spread_apart, tag, tick_text, ticks
from avalanche_vlm.report.rounding import show

DASHES = (None, "6 3", "2 3", "8 3 2 3")
"""Lines differ in more than colour."""
COLOURS = 8

_LINE, _DIGIT, _LETTER, _NAME = 15.0, 7.6, 7.2, 14  # between labels; widths; letters that a name may have


def curve(
    lines: Sequence[dict[str, Any]], *, path: str, kind: str, title: str, key: str = "values", first: int = 0
) -> str:
    """Lines over steps 0, 1, ..., with a band from low to high where there is one.

    :param lines: ``name`` and ``values``; ``low`` and ``high`` if several seeds made them.
    :param path: path of the lines in the content; the position of the line, ``key`` and the step are appended.
    :param key: what the values are called there.
    :param first: the position of the first line there.
    """
    drawn = [(n, line) for n, line in enumerate(lines) if any(v is not None for v in line[key])]
    known = [v for _, line in drawn for name in (key, "low", "high") for v in line.get(name) or [] if v is not None]
    if not known:
        return ""
    marks = ticks(min(known), max(known))
    if kind == "percent" and marks[-1] > 100:
        marks = [m for m in marks if m <= 100]
    lowest, highest = marks[0], max(marks[-1], max(known))
    words = [show(mark, kind) for mark in marks] if kind == "bytes" else tick_text(marks)
    named = [line["name"] if len(lines) > 1 else "" for line in lines]
    figures = [show(line[key][_last(line[key])], kind) for _, line in drawn]
    wide = 12 + _DIGIT * max(map(len, figures)) + _LETTER * min(_NAME, max(map(breadth, named)))
    width, left, right, top = 360.0, 12 + _DIGIT * max(map(len, words)), 352 - wide, 12.0
    height = max(170.0 if len(lines) > 1 else 130.0, 20 + _LINE * len(drawn))
    bottom = height
    steps = max(len(line[key]) for _, line in drawn)

    def x(step: int) -> float:
        return left + (right - left) * step / max(steps - 1, 1)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - lowest) / (highest - lowest)

    parts = []
    for mark, word in zip(marks, words, strict=True):
        parts.append(tag("line", x1=left, x2=right, y1=y(mark), y2=y(mark), class_="grid"))
        parts.append(label(word, left - 6, y(mark) + 4, text_anchor="end", class_="axis"))
    every = 1 + (steps - 1) // 12
    for step in range(0, steps, every):
        parts.append(label(str(step), x(step), bottom + 18, text_anchor="middle", class_="axis"))
    ends = [_last(line[key]) for _, line in drawn]
    places = spread_apart([y(line[key][end]) for (_, line), end in zip(drawn, ends, strict=True)], _LINE, top, bottom)
    for (n, line), end, place in zip(drawn, ends, places, strict=True):
        colour, dash = f"s{n % COLOURS}", DASHES[(n + n // COLOURS) % len(DASHES)]
        parts.append(_band(line, x, y, colour))
        for stretch in _stretches(line[key]):
            points = " ".join(f"{x(s):.1f},{y(line[key][s]):.1f}" for s in stretch)
            parts.append(tag("polyline", points=points, class_=f"line {colour}", stroke_dasharray=dash))
            parts.extend(
                tag(
                    "circle",
                    tag("title", f"step {s}: {show(line[key][s], kind)}"),
                    cx=x(s),
                    cy=y(line[key][s]),
                    r=2.6,
                    class_=f"dot {colour}",
                )
                for s in stretch
            )
        at = right + 8
        parts.append(tag("line", x1=x(end) + 3, x2=at - 2, y1=y(line[key][end]), y2=place, class_="leader"))
        spot = f"{path}.{first + n}.{key}.{end}"
        parts.append(figure(line[key][end], kind, spot, at, place + 4, class_=f"end {colour}"))
        if named[n]:
            offset = _DIGIT * len(show(line[key][end], kind)) + 4
            parts.append(label(named[n], at + offset, place + 4, _NAME, class_="name"))
    return picture("".join(parts), width, height + 26, title, "curve")


def _band(line: dict[str, Any], x: Callable[[int], float], y: Callable[[float], float], colour: str) -> str:
    low, high = line.get("low"), line.get("high")
    if not low or not high or low == high or any(v is None for v in [*low, *high]):
        return ""
    upper = [f"{x(s):.1f},{y(v):.1f}" for s, v in enumerate(high)]
    lower = [f"{x(s):.1f},{y(v):.1f}" for s, v in enumerate(low)]
    return tag("polygon", points=" ".join(upper + lower[::-1]), class_=f"band {colour}")


def _last(values: Sequence[float | None]) -> int:
    return max(s for s, v in enumerate(values) if v is not None)


def _stretches(values: Sequence[float | None]) -> list[list[int]]:
    """Steps with values, cut where one is missing: no line is drawn over a gap."""
    found: list[list[int]] = [[]]
    for step, value in enumerate(values):
        if value is None:
            found.append([])
        else:
            found[-1].append(step)
    return [stretch for stretch in found if stretch]
