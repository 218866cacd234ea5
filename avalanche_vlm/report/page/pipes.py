"""Figures and tables in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from avalanche_vlm.report.page.charts.heatmap import NUMBERED
from avalanche_vlm.report.page.reading import padded
from avalanche_vlm.report.rounding import MISSING, has_spread, show
from avalanche_vlm.units import in_markdown


def missing(c: dict[str, Any], name: str) -> str:
    """What fills a section that is empty; nothing for any other."""
    absent = c["missing"].get(name)
    return f"`{absent['command']}` {absent['sentence']}" if absent else ""


def mean(figures: dict[str, Any], kind: str) -> str:
    """A mean with its deviation, where there is one."""
    return show(figures["mean"], kind) + (f" ± {show(figures['std'], kind)}" if has_spread(figures, kind) else "")


def between(interval: dict[str, Any]) -> str:
    """From low to high, in points."""
    if interval["low"] is None and interval["high"] is None:
        return "no interval"
    return f"{show(interval['low'], 'points')} to {show(interval['high'], 'points')}"


def value(found: Any, kind: str) -> str:
    """A figure, a word, or yes and no."""
    if kind in ("flag", "words"):
        return MISSING if found is None else {True: "yes", False: "no"}.get(found, found)
    return show(found, kind)


def steps(lines: Sequence[dict[str, Any]], key: str, tasks: list[str], kind: str) -> str:
    """Lines over the steps of the stream."""
    return ragged(tasks, [[line["name"], *(show(v, kind) for v in line[key])] for line in lines])


def ragged(tasks: list[str], rows: list[list[str]]) -> str:
    """Rows over the steps of the stream; a shorter one ends in blanks."""
    width = max(map(len, rows), default=1)
    heads = ["", *padded(["pretrained", *tasks], width - 1)]
    return table(heads, [row + [""] * (width - len(row)) for row in rows], set(range(1, width)))


def matrix_table(corner: str, rows: list[str], columns: list[str], cells: list[list[float | None]], kind: str) -> str:
    """A matrix with its names; a sentence for one of more cells than anyone reads."""
    if len(rows) * len(columns) > NUMBERED:
        return f"{len(rows):,} rows and {len(columns):,} columns: report.json has the numbers."
    named = [[name, *(show(v, kind) for v in row)] for name, row in zip(rows, cells, strict=True)]
    return table([corner, *columns], named, set(range(1, len(columns) + 1)))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """A pipe table; columns of figures to the right. Nothing without rows."""
    rows = list(rows)
    if not rows:
        return ""
    rule = "|".join("---:" if i in right else "---" for i in range(len(heads)))
    lines = ["|".join(plain(cell) for cell in row) for row in [heads, *rows]]
    return "\n".join(f"|{line}|" for line in [lines[0], rule, *lines[1:]])


def plain(words: str) -> str:
    """Words that Markdown and HTML leave alone, on one line."""
    return in_markdown(words)
