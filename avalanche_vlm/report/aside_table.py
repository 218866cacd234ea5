"""Held-out scores as a table on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from avalanche_vlm.evaluation.curves import curves_by_set
from avalanche_vlm.report.table import console, words

_ENDS = 6
"""Steps that are shown from either end of a long stream."""


def print_held_out(result: Mapping[str, Any]) -> None:
    """The scores on held-out sets: rows are training steps, columns sets. Of many steps the first and the last few are
    shown. Nothing is printed where nothing was held out.

    :param result: what ``result.json`` holds.
    """
    curves = curves_by_set(result.get("held_out"))
    rows = list(zip(["(pretrained)", *result["tasks"]], zip_longest(*curves.values()), strict=False))
    if not rows:
        return
    from rich.table import Table

    table = Table(title="score on held-out sets (percent)")
    table.add_column("after", no_wrap=True)
    for name in curves:
        table.add_column(words(name), justify="right", no_wrap=True)
    left_out = len(rows) - 2 * _ENDS
    for number, (label, values) in enumerate(rows):
        if left_out > 1 and _ENDS <= number < len(rows) - _ENDS:
            if number == _ENDS:
                table.add_row(f"... {left_out} more ...")
            continue
        table.add_row(words(label), *("-" if v is None else f"{v:.1f}" for v in values))
    console().print(table)
