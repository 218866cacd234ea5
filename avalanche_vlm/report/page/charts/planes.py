"""Where features went on a plane: a trail per point, hollow where it begins and filled where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from avalanche_vlm.report.page.charts.curves import COLOURS
from avalanche_vlm.report.page.charts.svg import label, picture, tag

Places = Sequence[Sequence[Any]]
"""By step a place for every point, None where nothing was measured."""


def trails(
    images: Places, texts: Places, *, points: Sequence[dict[str, Any]], tasks: Sequence[str], farthest: Sequence[int]
) -> str:
    """Circles are images, squares texts; a colour stands for a task. Those that moved farthest have their numbers.

    :param images: places of image features.
    :param texts: places of text features.
    :param points: ``task`` and ``name`` of every point.
    :param tasks: names of the tasks.
    :param farthest: which points have a number, the first one 1.
    """
    known = [place for side in (images, texts) for row in side for place in row if place is not None]
    if not known:
        return ""
    width, height, edge = 640.0, 420.0, 22.0
    west, east = min(p[0] for p in known), max(p[0] for p in known)
    south, north = min(p[1] for p in known), max(p[1] for p in known)
    # One scale for both directions, so that distances on the page are distances on the plane.
    scale = min((width - 2 * edge) / ((east - west) or 1), (height - 2 * edge) / ((north - south) or 1))
    height = min(height, 2 * edge + max(120.0, (north - south) * scale))
    middle = (west + east) / 2, (south + north) / 2

    def at(place: Any) -> tuple[float, float]:
        return width / 2 + (place[0] - middle[0]) * scale, height / 2 - (place[1] - middle[1]) * scale

    parts, ends = [], []
    for n, point in enumerate(points):
        colour = f"s{tasks.index(point['task']) % COLOURS}"
        for what, side in (("images", images), ("text", texts)):
            way = [at(row[n]) for row in side if row[n] is not None]
            if not way:
                continue
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in way)
            parts.append(tag("polyline", points=line, class_=f"trail {colour}"))
            parts.append(_mark(what, way[0], 2.6, f"from {colour}"))
            tip = tag("title", escape(f"{point['name']}, {point['task']}: {what} at the end"))
            ends.append(_mark(what, way[-1], 4.2, f"dot {colour}", tip))
    for rank, n in enumerate(farthest, start=1):
        there = next((row[n] for row in reversed(images) if row[n] is not None), None)
        if there is not None:
            x, y = at(there)
            ends.append(label(str(rank), x + 6, y - 5, class_="name strong rank"))
    name = f"Map of {len(points)} points over {len(images)} steps: images as circles, texts as squares"
    return picture("".join(parts + ends), width, height, name, "trails")


def _mark(what: str, place: tuple[float, float], radius: float, kind: str, content: str = "") -> str:
    x, y = place
    if what == "images":
        return tag("circle", content, cx=x, cy=y, r=radius, class_=kind)
    return tag("rect", content, x=x - radius, y=y - radius, width=2 * radius, height=2 * radius, class_=kind)
