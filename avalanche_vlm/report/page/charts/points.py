"""Two scores against each other: bubbles as large as what is stored, the front joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import Any

from avalanche_vlm.report.page.charts.svg import breadth, figure, label, picture, tag, tick_text, ticks
from avalanche_vlm.report.rounding import show

Box = tuple[float, float, float, float]


def scatter(points: Sequence[dict[str, Any]], *, x_name: str, y_name: str, y_kind: str, path: str, title: str) -> str:
    """Points with name and bytes beside them. Those on the front are filled; a line joins the best in the two scores.

    :param points: ``name``, ``x`` (percent), ``y`` (of ``y_kind``), ``bytes`` or None, ``front``.
    :param path: path of the points in the content.
    """
    width, height, left, right, top, bottom = 360.0, 320.0, 36.0, 354.0, 26.0, 276.0
    (west, east), (south, north) = (_around([p[k] for p in points]) for k in ("x", "y"))
    across, up = ([m for m in ticks(a, b) if a <= m <= min(b, 100)] for a, b in ((west, east), (south, north)))

    def x(value: float) -> float:
        return left + (right - left) * (value - west) / (east - west)

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - south) / (north - south)

    parts = []
    for mark, word in zip(across, tick_text(across), strict=True):
        parts.append(tag("line", x1=x(mark), x2=x(mark), y1=top, y2=bottom, class_="grid"))
        parts.append(label(word, x(mark), bottom + 16, text_anchor="middle", class_="axis"))
    for mark, word in zip(up, tick_text(up), strict=True):
        parts.append(tag("line", x1=left, x2=right, y1=y(mark), y2=y(mark), class_="grid"))
        parts.append(label(word, left - 6, y(mark) + 4, text_anchor="end", class_="axis"))
    parts.append(label(f"{x_name} →", right, height - 8, text_anchor="end", class_="name"))
    parts.append(label(f"↑ {y_name}", 2, 14, class_="name"))
    best = sorted((x(p["x"]), y(p["y"])) for p in points if unbeaten(p, points))
    parts.append(tag("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in best), class_="front"))
    most = max((p["bytes"] or 0 for p in points), default=0)
    radii = [5 + 9 * math.sqrt((p["bytes"] or 0) / most) if most else 6.0 for p in points]
    taken: list[Box] = [
        (x(p["x"]) - r, y(p["y"]) - r, x(p["x"]) + r, y(p["y"]) + r) for p, r in zip(points, radii, strict=True)
    ]
    for (a, b), (c, d) in pairwise(best):  # labels keep off the line
        taken += [
            (m - 2, n - 2, m + 2, n + 2) for m, n in ((a + (c - a) * t / 20, b + (d - b) * t / 20) for t in range(21))
        ]
    drawn = sorted(enumerate(points), key=lambda pair: -radii[pair[0]])
    for n, p in drawn:
        tip = f"{p['name']}: {x_name} {show(p['x'], 'percent')}, {y_name} {show(p['y'], y_kind)}"
        shape = "bubble on" if p["front"] else "bubble"
        parts.append(tag("circle", tag("title", escape(tip)), cx=x(p["x"]), cy=y(p["y"]), r=radii[n], class_=shape))
    for n, p in sorted(enumerate(points), key=lambda pair: not pair[1]["front"]):
        size = show(p["bytes"], "bytes")
        wide = 7.6 * max(min(breadth(p["name"]), 16), len(size))
        a, b = _free(x(p["x"]), y(p["y"]), radii[n], wide, taken, (left, top, width, bottom))
        taken.append((a, b, a + wide, b + 26))
        near = min(max(x(p["x"]), a), a + wide), min(max(y(p["y"]), b), b + 26)
        if math.dist(near, (x(p["x"]), y(p["y"]))) > radii[n] + 10:
            parts.append(tag("line", x1=x(p["x"]), y1=y(p["y"]), x2=near[0], y2=near[1], class_="lead"))
        parts.append(label(p["name"], a, b + 11, 16, class_="name strong" if p["front"] else "name"))
        parts.append(figure(p["bytes"], "bytes", f"{path}.{n}.bytes", a, b + 23, class_="small"))
    return picture("".join(parts), width, height, title, "scatter")


def unbeaten(point: dict[str, Any], points: Sequence[dict[str, Any]]) -> bool:
    """Whether no other point is at least as good in both scores and better in one."""
    x, y = point["x"], point["y"]
    return not any(q["x"] >= x and q["y"] >= y and (q["x"], q["y"]) != (x, y) for q in points)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """A range with room at its ends for bubbles and labels."""
    low, high = min(values), max(values)
    room = max(0.16 * (high - low), 1.0)
    return low - room, high + room


def _free(x: float, y: float, radius: float, width: float, taken: list[Box], inside: Box) -> tuple[float, float]:
    """A corner for a label near a bubble that covers nothing yet; beside it where all is taken."""
    height, best, least = 26.0, (x + radius + 4, y - 13), math.inf
    for away in (4.0, 14.0, 26.0, 40.0, 58.0):
        reach = radius + away
        slant = reach * 0.75
        for dx, dy in (
            (reach, -13), (-reach - width, -13), (-width / 2, -reach - height), (-width / 2, reach),
            (slant, slant - 6), (slant, -slant - 20), (-slant - width, slant - 6), (-slant - width, -slant - 20),
        ):  # fmt: skip
            a, b = x + dx, y + dy
            box = (a, b, a + width, b + height)
            outside = a < inside[0] or b < inside[1] or a + width > inside[2] or b + height > inside[3]
            cost = sum(_overlap(box, other) for other in taken) + (1e6 if outside else 0) + away
            if cost < least:
                best, least = (a, b), cost
    return best


def _overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0
