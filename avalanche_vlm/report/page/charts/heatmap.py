"""A matrix of figures in tinted cells; of more cells than anyone reads, a picture of them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from avalanche_vlm.report.page.charts.svg import breadth, figure, label, picture, tag
from avalanche_vlm.report.rounding import MISSING, show

STRONGEST = 0.55
"""The strongest tint: darker, the ink on it could not be read (a test holds the contrast)."""

NUMBERED = 1500
"""Cells that have their numbers, at most."""

_SIDE = 960  # of a picture of more cells, at most but for cells of one pixel
_HUES = (63, 127, 220), (216, 105, 48), (128, 128, 128)  # above 0, below it, and no number: on light and on dark ground
_LETTER = 6.6  # width of a letter at the charts' size of text


def heat(
    cells: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    path: str,
    kind: str,
    title: str,
    spread: Sequence[Sequence[float | None]] | None = None,
    spread_path: str = "",
    scale: float | None = None,
    corner: str = "",
    cell_width: int = 46,
) -> str:
    """Cells with their numbers; tints are from the surface to the hue for 0 to ``scale``, to another below 0. More than
    :data:`NUMBERED` cells are a picture with a pixel a cell, and no numbers.

    :param cells: ``[row][column]``, None where there is none.
    :param path: path of the cells in the content; row and column are appended.
    :param spread: a second, smaller number per cell, shown after a ±.
    :param scale: the value of the strongest tint; the largest magnitude by default.
    :param corner: what rows and columns are.
    """
    rows, columns = rows[: len(cells)], columns[: max(map(len, cells), default=0)]
    if len(rows) * len(columns) > NUMBERED:
        return _picture(cells, rows, columns, title, scale, corner)
    known = [abs(v) for row in cells for v in row if v is not None]
    top = scale or max(known, default=0) or 1
    spread = spread if spread and any(v is not None for row in spread for v in row) else None
    height = 38 if spread else 28
    shown = 16
    left = 14 + _LETTER * min(shown, max(map(breadth, [*rows, corner]), default=1))
    letters = min(12, max(map(breadth, columns), default=1))
    upper = 16 + letters * _LETTER * math.sin(math.radians(40))
    parts = [label(corner, 0, upper - 8, class_="axis", limit=shown)] if corner else []
    for i, name in enumerate(columns):
        x, y = left + (i + 0.5) * cell_width - 4, upper - 6
        parts.append(label(name, x, y, 12, transform=f"rotate(-40 {x:.1f} {y:.1f})", class_="name"))
    for j, name in enumerate(rows):
        parts.append(label(name, 0, upper + (j + 0.5) * height + 4, shown, class_="name"))
    for j, row in enumerate(cells):
        for i, value in enumerate(row):
            x, y = left + i * cell_width, upper + j * height
            tip = f"{rows[j]}, {columns[i]}: {show(value, kind)}"
            parts.append(_box(value, top, x, y, cell_width, height))
            middle = x + cell_width / 2
            base = y + height / 2 + (4 if spread is None else -1)
            parts.append(
                figure(value, kind, f"{path}.{j}.{i}", middle, base, tip, text_anchor="middle", class_="cell")
                if value is not None
                else label(MISSING, middle, base, text_anchor="middle", class_="cell none")
            )
            if spread is not None and spread[j][i] is not None:
                inner = tag("tspan", show(spread[j][i], kind), data_path=f"{spread_path}.{j}.{i}", data_kind=kind)
                parts.append(tag("text", "±" + inner, x=middle, y=base + 13, text_anchor="middle", class_="small"))
    width = left + len(columns) * cell_width + max(0.0, letters * _LETTER * math.cos(math.radians(40)) - cell_width / 2)
    return picture("".join(parts), width, upper + len(rows) * height + 2, title, "heat", natural=True)


def _picture(
    cells: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    scale: float | None,
    corner: str,
) -> str:
    """A pixel a cell, and as many names as there is room for."""
    side = max(1.0, min(24.0, _SIDE / max(len(rows), len(columns))))
    left = 14 + _LETTER * min(16, max(map(breadth, [*rows, corner])))
    upper = 16 + _LETTER * min(12, max(map(breadth, columns))) * math.sin(math.radians(40))
    every = math.ceil(14 / side)
    parts = [label(corner, 0, upper - 8, class_="axis", limit=16)] if corner else []
    for i in range(0, len(columns), every):
        x, y = left + (i + 0.5) * side, upper - 6
        parts.append(label(columns[i], x, y, 12, transform=f"rotate(-40 {x:.1f} {y:.1f})", class_="name"))
    parts += [label(rows[j], 0, upper + (j + 0.5) * side + 4, 16, class_="name") for j in range(0, len(rows), every)]
    size = {"width": side * len(columns), "height": side * len(rows)}
    tip = tag("title", escape(f"{title}. A colour a cell; report.json has the numbers."))
    parts.append(
        tag(
            "image",
            tip,
            x=float(left),
            y=float(upper),
            **size,
            preserveAspectRatio="none",
            image_rendering="pixelated",
            href=f"data:image/png;base64,{_png(cells, len(columns), scale)}",
        )
    )
    return picture("".join(parts), left + size["width"] + 60, upper + size["height"] + 2, title, "heat", natural=True)


def _png(cells: Sequence[Sequence[float | None]], width: int, scale: float | None) -> str:
    """A pixel a cell: the hue as strong as the value, on whatever ground."""
    from PIL import Image

    top = scale or max((abs(v) for row in cells for v in row if v is not None), default=0) or 1

    def colour(value: float | None) -> int:
        """Number in the palette: first what has no value, then what is below 0, and from 128 on the others."""
        strength = 0 if value is None else round(127 * min(1.0, abs(value) / top))
        return 0 if value is None else strength if value < 0 and strength else 128 + strength

    def line(row: Sequence[float | None]) -> bytes:
        if {float}.issuperset(map(type, row)) and min(row) >= 0 and max(row) <= top:  # type: ignore[type-var,operator]
            return bytes([128 + int(127 * value / top + 0.5) for value in row])  # type: ignore[operator]
        return bytes(map(colour, row))

    lines = [line(row).ljust(width, b"\0") for row in cells]
    drawn = Image.frombytes("P", (width, len(lines)), b"".join(lines))
    above, below, none = _HUES
    drawn.putpalette([*none, *below * 127, *above * 128])
    opaque = [round(255 * STRONGEST * i / 127) for i in range(128)]
    content = io.BytesIO()
    drawn.save(content, "PNG", transparency=bytes([90, *opaque[1:], *opaque]))
    return base64.b64encode(content.getvalue()).decode()


def _box(value: float | None, top: float, x: float, y: float, width: float, height: float) -> str:
    place: dict[str, Any] = {"x": x + 1, "y": float(y + 1), "width": width - 2, "height": height - 2, "rx": 3}
    if value is None:
        return tag("rect", **place, class_="none")
    strength = STRONGEST * min(1.0, abs(value) / top)
    return tag("rect", **place, class_="below" if value < 0 else "above", fill_opacity=f"{strength:.3f}")
