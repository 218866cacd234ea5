"""Two results side by side: in what they differ, every figure of both, and the difference where they compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche_vlm._flat import differing
from avalanche_vlm.evaluation.comparable import apart, deciding, facts_apart
from avalanche_vlm.evaluation.declaration import ResultEntry
from avalanche_vlm.evaluation.figures import figures_of
from avalanche_vlm.report.page.reading import grid, number, record, text, titles

_MOST_FACTS = 40
"""Facts in which two protocols differ that are listed, at most."""


def sides(pair: Sequence[ResultEntry], names: Sequence[str]) -> dict[str, Any]:
    """The section that puts two results beside each other.

    :param pair: the two results.
    :param names: what they are called.
    """
    results = [entry["result"] for entry in pair]
    kept_apart = apart(results)
    figures = []
    for figure in figures_of(pair, "page"):
        values = [number(figure.value(entry)) for entry in pair]
        if any(value is not None for value in values):
            kind = {"percent": "points"}.get(figure.unit, figure.unit)
            lower, upper = values
            change = None if kept_apart or lower is None or upper is None else round(upper - lower, 4)
            better = {True: "higher", False: "lower", None: None}[figure.higher_is_better]
            line = {"title": figure.title, "kind": figure.unit, "change_kind": kind, "better": better}
            figures.append({**line, "values": values, "change": change})
    facts = [deciding(result["protocol"]) for result in results]
    told = facts_apart(*(result["protocol"] for result in results))
    differ = [name for name in differing(facts) if name in told]
    return {
        "runs": [_run(entry, name) for entry, name in zip(pair, names, strict=True)],
        "apart": kept_apart,
        "facts": [{"name": name, "values": [text(of.get(name)) for of in facts]} for name in differ[:_MOST_FACTS]],
        "more": max(0, len(differ) - _MOST_FACTS),
        "figures": figures,
        "tasks": [] if kept_apart else titles(results[0]["tasks"]),
        "change": [] if kept_apart else _change(*(grid(result["matrix"]) for result in results)),
        "answers": [_answers(entry) for entry in pair],
    }


def _run(entry: ResultEntry, name: str) -> dict[str, str]:
    protocol = record(entry["result"]["protocol"])
    return {"name": name, "recipe": text(protocol.get("recipe")), "seed": text(protocol.get("seed"))}


def _change(first: list[list[float | None]], second: list[list[float | None]]) -> list[list[float | None]]:
    """The second matrix less the first, in points."""
    return [
        [None if a is None or b is None else round(b - a, 4) for a, b in zip(*rows, strict=True)]
        for rows in zip(first, second, strict=True)
    ]


def _answers(entry: ResultEntry) -> dict[str, int] | None:
    """How many answers a stream has changed."""
    rows = record(entry.get("views")).get("changed") or []
    return {key: sum(row[key] for row in rows) for key in ("samples", "lost", "won")} if rows else None
