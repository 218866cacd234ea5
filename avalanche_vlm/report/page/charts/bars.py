"""A figure with its interval on a line: large as a gauge, small in a table."""

from __future__ import annotations

from collections.abc import Callable

from avalanche_vlm.report.page.charts.svg import label, picture, tag, tick_text, ticks


def scale_of(intervals: list[dict[str, float | None]], key: str) -> tuple[float, float]:
    """One range for figures that shall be compared: zero is in it, and every interval."""
    found = [v for i in intervals for v in (i.get(key), i.get("low"), i.get("high")) if v is not None]
    low, high = min([0.0, *found]), max([0.0, *found])
    room = 0.04 * (high - low) or 1.0
    return (low - room if low < 0 else 0.0), (high + room if high > 0 or not any(found) else 0.0)


def gauge(interval: dict[str, float | None], scale: tuple[float, float], hue: str, title: str) -> str:
    """A bar from zero to the points, and a bracket from low to high.

    :param interval: ``points``, ``low``, ``high``; None where not known.
    :param scale: ends of the line, the same for gauges side by side.
    :param hue: name of a colour of the page.
    """
    width, height, left, right, middle = 320.0, 58.0, 12.0, 308.0, 20.0
    x = _place(scale, left, right)
    points, low, high = (interval.get(k) for k in ("points", "low", "high"))
    parts = [tag("rect", x=left, y=middle - 9, width=right - left, height=18, rx=4, class_="track")]
    if points is not None:
        a, b = sorted((x(0), x(points)))
        parts.append(tag("rect", x=a, y=middle - 9, width=max(b - a, 1.5), height=18, rx=3, class_=f"fill {hue}"))
    if low is not None and high is not None:
        parts.append(_bracket(x(low), x(high), middle, 13))
    marks = [mark for mark in ticks(*scale) if scale[0] <= mark <= scale[1]]
    for mark, words in zip(marks, tick_text(marks), strict=True):
        parts.append(tag("line", x1=x(mark), x2=x(mark), y1=33.0, y2=38.0, class_="tick zero" if mark == 0 else "tick"))
        parts.append(label(words, x(mark), 52, text_anchor="middle", class_="axis"))
    return picture("".join(parts), width, height, title, "gauge")


def whisker(interval: dict[str, float | None], key: str, scale: tuple[float, float], hue: str, title: str) -> str:
    """A dot with its interval and the line of zero; the numbers stand beside it in the table."""
    width, height, middle = 120.0, 22.0, 11.0
    x = _place(scale, 8, width - 8)
    parts = [tag("line", x1=x(0), x2=x(0), y1=1.0, y2=height - 1, class_="tick zero")]
    value, low, high = interval.get(key), interval.get("low"), interval.get("high")
    if low is not None and high is not None:
        parts.append(_bracket(x(low), x(high), middle, 5))
    if value is not None:
        parts.append(tag("circle", cx=x(value), cy=middle, r=4.5, class_=f"fill {hue}"))
    return picture("".join(parts), width, height, title, "whisker", natural=True)


def _place(scale: tuple[float, float], left: float, right: float) -> Callable[[float], float]:
    low, high = scale
    return lambda v: left + (right - left) * (v - low) / (high - low)


def _bracket(a: float, b: float, y: float, half: float) -> str:
    ends = "".join(tag("line", x1=x, x2=x, y1=y - half, y2=y + half, class_="bracket") for x in (a, b))
    return tag("line", x1=a, x2=b, y1=y, y2=y, class_="bracket") + ends
