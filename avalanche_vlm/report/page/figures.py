"""How numbers look: one rule per kind, stated in the report."""

from __future__ import annotations

from avalanche_vlm.units import human_bytes

ROUNDING = {
    "percent": "one decimal",
    "points": "one decimal; points are differences of percentages",
    "ratio": "two decimals",
    "share": "whole percent of the stored fraction",
    "count": "whole number",
    "bytes": "bytes, or KiB, MiB, GiB (steps of 1,024) with one decimal",
    "seconds": "one decimal below 10, whole above",
    "flops": "one decimal with k, M, G, T (steps of 1,000)",
    "scale": "two significant digits",
}
"""Kinds of figures, and how each is rounded where it is printed; the JSON file holds them unrounded."""

MISSING = "n/a"


def show(value: float | bool | None, kind: str) -> str:
    """A figure as text; ``n/a`` where there is none.

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
        "share": lambda v: f"{100 * v:.0f}",
        "count": lambda v: f"{v:,.0f}",
        "bytes": human_bytes,
        "seconds": lambda v: f"{v:.1f}" if abs(v) < 10 else f"{v:,.0f}",
        "flops": _flops,
        "scale": lambda v: f"{v:.2g}",
    }[kind](value)
    return shown[1:] if shown.startswith("-") and not shown.strip("-0.") else shown


def has_spread(figures: dict[str, float | None], kind: str) -> bool:
    """Whether a spread over seeds is worth a ±: bytes and counts that never vary have none."""
    return figures["std"] is not None and (figures["std"] > 0 or kind not in ("bytes", "count"))


def _flops(value: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 1000 or unit == "T":
            break
        value /= 1000
    return f"{value:,.1f} {unit}" if unit else f"{value:.0f}"


def kind_of(name: str) -> str:
    """The kind of a figure of the ledger or the plan, by its name.

    >>> kind_of("stored_disk_bytes"), kind_of("train_seconds"), kind_of("added_parameters"), kind_of("last")
    ('bytes', 'seconds', 'count', 'points')
    """
    for ending, kind in (("bytes", "bytes"), ("seconds", "seconds"), ("flops", "flops")):
        if ending in name:
            return kind
    counted = ("parameters", "passes", "artifacts", "count", "operational")
    return "count" if any(word in name for word in counted) else "points"
