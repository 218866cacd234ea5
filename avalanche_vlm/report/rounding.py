"""How numbers look, on a terminal and in the report: one rule per unit."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from avalanche_vlm.evaluation.declaration import Unit
from avalanche_vlm.units import human_bytes

ROUNDING: dict[Unit, str] = {
    "percent": "one decimal",
    "points": "one decimal; points are differences of percentages",
    "ratio": "two decimals",
    "cosine": "two decimals",
    "share": "whole percent of the stored fraction",
    "count": "whole number",
    "bytes": "bytes, or KiB, MiB, GiB (steps of 1,024) with one decimal",
    "seconds": "one decimal below 10, whole above",
    "flops": "one decimal with k, M, G, T (steps of 1,000)",
    "scale": "two significant digits",
}
"""Units of numbers, and how each is rounded where it is printed; files hold the numbers unrounded."""

MISSING = "n/a"


def show(value: float | bool | None, unit: str) -> str:
    """A number as text; ``n/a`` where there is none.

    :param value: the number, as files hold it.
    :param unit: one of :data:`ROUNDING`.

    >>> show(12.345, "points"), show(-0.01, "points"), show(None, "points"), show(0.934, "share")
    ('12.3', '0.0', 'n/a', '93')
    >>> show(1536, "bytes"), show(1234567, "count"), show(9.94, "seconds"), show(3.2e9, "flops")
    ('1.5 KiB', '1,234,567', '9.9', '3.2 G')
    """
    if value is None or value != value:
        return MISSING
    shown = {
        "percent": lambda v: f"{v:.1f}",
        "points": lambda v: f"{v:.1f}",
        "ratio": lambda v: f"{v:.2f}",
        "cosine": lambda v: f"{v:.2f}",
        "share": lambda v: f"{100 * v:.0f}",
        "count": lambda v: f"{v:,.0f}",
        "bytes": human_bytes,
        "seconds": lambda v: f"{v:.1f}" if abs(v) < 10 else f"{v:,.0f}",
        "flops": _flops,
        "scale": lambda v: f"{v:.2g}",
    }[unit](value)
    return shown[1:] if shown.startswith("-") and not shown.strip("-0.") else shown


def suffix(unit: str) -> str:
    """What the head of a column says of a unit that its numbers do not name.

    :param unit: one of :data:`ROUNDING`.

    >>> suffix("percent"), suffix("points"), suffix("bytes")
    (', %', ', points', '')
    """
    return {"percent": ", %", "share": ", %", "points": ", points"}.get(unit, "")


def has_spread(figures: Mapping[str, Any], unit: str) -> bool:
    """Whether a spread over seeds is worth a ±: bytes and counts that never vary have none.

    :param figures: ``std``, the standard deviation, None for one seed.
    :param unit: unit of the figure.
    """
    return figures["std"] is not None and (figures["std"] > 0 or unit not in ("bytes", "count"))


def spread(values: Iterable[float | None], digits: int | None = None) -> dict[str, Any]:
    """Mean and standard deviation over seeds.

    :param values: one value per seed; None and NaN are left out.
    :param digits: decimals of both; None leaves them unrounded.
    :return: ``mean`` and ``std``, None where there is none, and ``n``, the number of values.

    >>> spread([1.0, 2.0, None])
    {'mean': 1.5, 'std': 0.7071067811865476, 'n': 2}
    """
    known = [value for value in values if value is not None and value == value]
    mean = statistics.fmean(known) if known else None
    std = statistics.stdev(known) if len(known) > 1 else None
    if digits is not None:
        mean, std = (None if v is None else round(v, digits) for v in (mean, std))
    return {"mean": mean, "std": std, "n": len(known)}


def _flops(value: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 1000 or unit == "T":
            break
        value /= 1000
    return f"{value:,.1f} {unit}" if unit else f"{value:.0f}"


def unit_of(name: str) -> Unit:
    """The unit of a figure of the advice's plan, by its name there.

    :param name: name of the figure.

    >>> unit_of("stored_disk_bytes"), unit_of("train_seconds"), unit_of("added_parameters"), unit_of("last")
    ('bytes', 'seconds', 'count', 'points')
    """
    if "bytes" in name:
        return "bytes"
    if "seconds" in name:
        return "seconds"
    if "flops" in name:
        return "flops"
    counted = ("parameters", "passes", "artifacts", "count", "operational")
    return "count" if any(word in name for word in counted) else "points"
