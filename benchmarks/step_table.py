"""Keeps what ``step.py`` has measured, cell by cell, and makes the table of it.

    python benchmarks/step_table.py --add runs/step        # into benchmarks/step.jsonl, a line a cell and part
    python benchmarks/step_table.py --model ViT-B/32       # the table of one model

A cell that was measured before is replaced; every line says of which revision of the package it is, and of which torch.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from bare_steps import BARE
from step import BATCHES, PARTS

KEPT = Path(__file__).with_name("step.jsonl")
HEAD = "| recipe | stream | ours, ms | bare, ms | ratio (min to max) | texts | positions | MB, ours | MB, bare | of |"
ORDER = {"model": list(BATCHES), "recipe": list(BARE), "kind": ["classes", "pairs"], "part": list(PARTS)}


def place(cell: dict[str, Any]) -> tuple[int, ...]:
    """Where a line stands in the file."""
    model, recipe, kind, part = (order.index(cell[key]) for key, order in ORDER.items())
    return model, recipe, kind, cell["classes"], part


def kept() -> dict[tuple[int, ...], dict[str, Any]]:
    """All lines by their places."""
    cells = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    return {place(cell): cell for cell in cells}


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Markdown of one model's cells: those whose times were measured, each with the revision that they are of."""
    parts = {(cell["recipe"], cell["kind"], cell["classes"], cell["part"]): cell for cell in cells}
    lines = [HEAD, "|---" * 10 + "|"]
    for (recipe, kind, n, part), cell in parts.items():
        if part != "both":
            continue
        memory = [parts.get((recipe, kind, n, of), {}).get("peak_mb") for of in ("ours", "bare")]
        row = [
            f"`{recipe}`",
            "pairs" if kind == "pairs" else f"{n:,} classes",
            f"{cell['ours_ms']:,.1f}",
            f"{cell['bare_ms']:,.1f}",
            f"{cell['ratio']:.3f} ({cell['least']:.3f} to {cell['most']:.3f})",
            f"{cell['texts']:,.0f}",
            f"{cell['positions']:,.0f}",
            *("" if of is None else f"{of:,.0f}" for of in memory),
            cell["revision"],
        ]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, help="a folder that step.py has written")
    parser.add_argument("--model", choices=BATCHES, help="the table of this one alone")
    options = parser.parse_args()
    cells = kept()
    if options.add:
        new = [json.loads(path.read_text()) for path in options.add.glob("*.json")]
        cells = dict(sorted((cells | {place(cell): cell for cell in new}).items()))
        KEPT.write_text("".join(json.dumps(cell) + "\n" for cell in cells.values()))
    for model in [options.model] if options.model else BATCHES:
        of_model = [cell for cell in cells.values() if cell["model"] == model]
        ratios = [cell["ratio"] for cell in of_model if cell["part"] == "both"]
        if not ratios:
            continue
        versions = sorted({cell["torch"] for cell in of_model})
        print(f"\n{model}, batches of {BATCHES[model]}, one thread, torch {', '.join(versions)}\n")
        print("\n".join(table(of_model)))
        within = {goal: sum(ratio <= goal for ratio in ratios) for goal in (1.01, 1.03, 1.05)}
        counts = ", ".join(f"{n} keep to {goal}" for goal, n in within.items())
        middle, most = statistics.median(ratios), max(ratios)
        print(f"\nOf {len(ratios)} cells {counts}; the median is {middle:.3f}, the most {most:.3f}.")


if __name__ == "__main__":
    main()
