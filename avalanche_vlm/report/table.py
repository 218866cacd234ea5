"""Results as a table: on a terminal, as CSV, as a summary over seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from avalanche_vlm.units import human_bytes

Entry = dict[str, Any]
"""``result`` (what ``result.json`` holds) and ``timing`` of one experiment."""

HELD_OUT = "captions R@1"
MODALITY_GAP = "captions modality gap"


def row(entry: Entry) -> dict[str, Any]:
    """The figures of one experiment: scores in percent, changes in points, bytes, counts, seconds. NaN is missing."""
    result, timing = entry["result"], entry["timing"]
    metrics = {name: math.nan if v is None else v for name, v in result["metrics"].items()}
    held_out = result["held_out"].get(HELD_OUT, [math.nan, math.nan])
    gap = result.get("alignment", {}).get(MODALITY_GAP, [math.nan])  # results of an earlier version have none
    return {
        "recipe": result["protocol"]["recipe"],
        "seed": result["protocol"]["seed"],
        **{name: metrics[name] for name in ("last", "avg", "transfer", "forget", "bwt", "zsd")},
        "held_out_r1": held_out[-1],
        "held_out_loss": held_out[0] - held_out[-1],
        "modality_gap": gap[-1],
        "stored_bytes": result["costs"]["stored_bytes"],
        "trainable_parameters": result["costs"]["trainable_parameters"],
        "seconds": timing["total_seconds"],
    }


_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "last": ("Last", "{:.1f}".format),
    "avg": ("Avg", "{:.1f}".format),
    "transfer": ("Transfer", "{:.1f}".format),
    "forget": ("Forget", "{:.1f}".format),
    "bwt": ("BWT", "{:.1f}".format),
    "zsd": ("ZSD", "{:.1f}".format),
    "held_out_r1": ("held-out R@1", "{:.1f}".format),
    "held_out_loss": ("held-out loss", "{:.1f}".format),
    "stored_bytes": ("stored", human_bytes),
    "trainable_parameters": ("trainable", "{:,.0f}".format),
    "seconds": ("seconds", "{:.0f}".format),
}


def as_csv(entries: Sequence[Entry]) -> str:
    """One line per experiment, figures as they are."""
    rows = [row(entry) for entry in entries]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v != v else v for k, v in r.items()} for r in rows)
    return text.getvalue()


def summary(entries: Sequence[Entry]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (sample, None for one seed) and number of seeds, per recipe and figure."""
    recipes = {}
    for recipe, rows in _by_recipe(entries).items():
        recipes[recipe] = {}
        for name in _COLUMNS:
            values = [r[name] for r in rows if r[name] == r[name]]
            recipes[recipe][name] = {
                "mean": statistics.fmean(values) if values else None,
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "n": len(values),
            }
    protocol = dict(entries[0]["result"]["protocol"])
    for varying in ("recipe", "recipe_options", "train", "seed"):
        protocol.pop(varying)
    return {"protocol": protocol, "recipes": recipes}


def print_table(entries: Sequence[Entry]) -> None:
    """One line per recipe; mean ± standard deviation where there are several seeds."""
    from rich.table import Table

    figures = summary(entries)["recipes"]
    seeds = sorted({row(entry)["seed"] for entry in entries})
    protocol = entries[0]["result"]["protocol"]
    table = Table(
        title=f"{protocol['benchmark']}, label space {protocol['label_space']}, {protocol['model']}, "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} (scores in percent)"
    )
    table.add_column("recipe", no_wrap=True)
    for title, _ in _COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    for recipe, values in figures.items():
        table.add_row(recipe, *(_cell(values[name], show) for name, (_, show) in _COLUMNS.items()))
    console().print(table)


def print_matrix(result: dict[str, Any]) -> None:
    """The performance matrix: rows are training steps, columns tasks."""
    from rich.table import Table

    table = Table(title="score on each task (percent)")
    table.add_column("after", no_wrap=True)
    for task in result["tasks"]:
        table.add_column(task, justify="right", no_wrap=True)
    for label, values in zip(["(pretrained)", *result["tasks"]], result["matrix"], strict=True):
        table.add_row(label, *("-" if v is None else f"{v:.1f}" for v in values))
    console().print(table)


def _cell(figure: dict[str, Any], show: Callable[[float], str]) -> str:
    if figure["mean"] is None:
        return "-"
    return show(figure["mean"]) + (f" ±{show(figure['std'])}" if figure["std"] is not None else "")


def _by_recipe(entries: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        figures = row(entry)
        rows.setdefault(figures["recipe"], []).append(figures)
    return rows


def console() -> Any:
    from rich.console import Console

    # A pipe has no width of its own; a table cut to eighty columns would lose what it is printed for.
    return Console() if sys.stdout.isatty() else Console(width=200)
