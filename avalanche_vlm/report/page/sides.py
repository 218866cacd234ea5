"""Two results side by side: in what they differ, every figure of both, and the difference where they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avalanche_vlm._flat import differing
from avalanche_vlm.evaluation.comparable import apart, deciding, facts_apart
from avalanche_vlm.evaluation.declaration import ResultEntry
from avalanche_vlm.evaluation.figures import figures_of
from avalanche_vlm.report.page.reading import grid, number, record, text, titles
from avalanche_vlm.report.rounding import spread

_MOST_FACTS = 40
"""Facts in which two protocols differ that are listed, at most."""
_DIGITS = 4
"""Decimals of means over seeds: those that results have."""


def sides(pair: Mapping[str, Sequence[ResultEntry]]) -> dict[str, Any]:
    """The section that puts two results beside each other.

    :param pair: the two results by what they are called; each is a run, or runs that differ in the seed alone, of which
        the means stand there.
    """
    runs = list(pair.values())
    every = [entry for members in runs for entry in members]
    results = [members[0]["result"] for members in runs]
    kept_apart = apart([entry["result"] for entry in every])
    figures = []
    for figure in figures_of(every, "page"):
        found = [_over_seeds([number(figure.value(entry)) for entry in members]) for members in runs]
        values = [of["mean"] for of in found]
        if any(value is not None for value in values):
            kind = {"percent": "points"}.get(figure.unit, figure.unit)
            lower, upper = values
            change = None if kept_apart or lower is None or upper is None else round(upper - lower, 4)
            better = {True: "higher", False: "lower", None: None}[figure.higher_is_better]
            line = {"title": figure.title, "kind": figure.unit, "change_kind": kind, "better": better}
            figures.append({**line, "values": values, "spreads": [of["std"] for of in found], "change": change})
    facts = [deciding(result["protocol"]) for result in results]
    told = facts_apart(*(result["protocol"] for result in results))
    differ = [name for name in differing(facts) if name in told]
    return {
        "runs": [_run(members, name) for name, members in pair.items()],
        "apart": kept_apart,
        "facts": [
            {"name": name, "values": [_told(name, members) for members in runs]} for name in differ[:_MOST_FACTS]
        ],
        "more": max(0, len(differ) - _MOST_FACTS),
        "figures": figures,
        "tasks": [] if kept_apart else titles(results[0]["tasks"]),
        "change": [] if kept_apart else _change(*map(_matrix, runs)),
        "answers": [_answers(members[0]) if len(members) == 1 else None for members in runs],
    }


def _run(members: Sequence[ResultEntry], name: str) -> dict[str, Any]:
    protocols = [record(entry["result"]["protocol"]) for entry in members]
    seeds = [text(protocol.get("seed")) for protocol in protocols]
    return {"name": name, "recipe": text(protocols[0].get("recipe")), "seeds": seeds}


def _over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and deviation; what one run has as it stands."""
    return spread(values, _DIGITS if len(values) > 1 else None)


def _told(name: str, members: Sequence[ResultEntry]) -> str:
    """What runs say of a fact, in which some of them may differ."""
    said = [text(deciding(entry["result"]["protocol"]).get(name)) for entry in members]
    return ", ".join(dict.fromkeys(said))


def _matrix(members: Sequence[ResultEntry]) -> list[list[float | None]]:
    """The mean of the matrices of some runs of one stream, cell by cell."""
    matrices = [grid(entry["result"]["matrix"]) for entry in members]
    if len(matrices) == 1:
        return matrices[0]
    return [[spread(cells)["mean"] for cells in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


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
