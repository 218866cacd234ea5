"""Results of one protocol side by side: summary, matrices, curves, and what stands on the Pareto front."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from avalanche_vlm._flat import differing, flat
from avalanche_vlm.evaluation.beside import published_beside
from avalanche_vlm.evaluation.cells import not_measured
from avalanche_vlm.evaluation.chance import remarks
from avalanche_vlm.evaluation.comparable import DRAWN, SEEDS, grouped, shared_facts
from avalanche_vlm.evaluation.declaration import Figure, ResultEntry
from avalanche_vlm.evaluation.figures import figures_of
from avalanche_vlm.evaluation.left_out import images_passed_over
from avalanche_vlm.evaluation.variants import row_names, row_settings
from avalanche_vlm.report.page.charts.points import unbeaten
from avalanche_vlm.report.page.reading import grid, items, number, numbers, record, records, text, titles
from avalanche_vlm.report.page.sights import sights
from avalanche_vlm.report.rounding import spread

_DIGITS = 4
"""Decimals of what the page computes: those that results have."""


def groups(entries: Sequence[ResultEntry]) -> list[dict[str, Any]]:
    """Results by protocol, and within it by recipe: means and sample deviations over seeds, None where undefined.

    Two results share a group only if everything agrees that their recipe, its settings and the seed do not decide
    (:mod:`~avalanche_vlm.evaluation.comparable`).
    """
    results = [entry["result"] for entry in entries]
    parts = [[entries[place] for place in places] for places in grouped(results)]
    common = [shared_facts([entry["result"]["protocol"] for entry in members]) for members in parts]
    # What is drawn is common to a table of one seed, and keeps tables apart only where nothing else does.
    names = differing(common)
    apart = [name for name in names if name not in (*DRAWN, *SEEDS)] or names
    return [_group(members, facts, apart) for members, facts in zip(parts, common, strict=True)]


def _group(entries: list[ResultEntry], common: dict[str, Any], apart: list[str]) -> dict[str, Any]:
    first = entries[0]["result"]
    fixed = flat(common)
    variants = _variants(entries)
    figures = figures_of(entries, "page")
    recipes = [_recipe(name, members, figures) for name, members in variants.items()]
    results = [entry["result"] for entry in entries]
    return {
        "name": ", ".join(filter(None, (text(first["protocol"].get(k)) for k in ("benchmark", "model")))),
        "differs": [{"name": name, "value": text(fixed.get(name))} for name in apart],
        "tasks": titles(first["tasks"]),
        "columns": [
            _column(figure)
            for figure in figures
            if any(recipe["figures"][figure.name]["mean"] is not None for recipe in recipes)
        ],
        "recipes": recipes,
        "weakest": _weakest(variants, titles(first["tasks"])),
        "remarks": [*remarks(results, _names(entries)), *not_measured(results), *images_passed_over(results)],
        "published": _published(results),
        "held_out": _held_out(variants),
        "views": sights(variants),
        "ledgers": {name: record(members[0].get("ledger")) for name, members in variants.items()},
        "settings": [{"recipe": name, "settings": _settings(members[0])} for name, members in variants.items()],
        "protocol": protocol_rows(common),
    }


def _published(results: Sequence[Any]) -> dict[str, Any]:
    """What was published under the same protocol, and what is said of it."""
    found = published_beside(results)
    rows = [{"name": f"{row.method} (published)", "figures": dict(row.figures)} for row in found.rows]
    return {"rows": rows, "sentences": list(found.sentences)}


def _column(figure: Figure) -> dict[str, Any]:
    better = {True: "higher", False: "lower", None: None}[figure.higher_is_better]
    return {
        "key": figure.name,
        "title": figure.title,
        "kind": figure.unit,
        "better": better,
        "description": figure.description,
    }


def protocol_rows(protocol: dict[str, Any]) -> list[dict[str, str]]:
    """Everything of a protocol that does not vary within a table, as names and words."""
    kept = {k: v for k, v in shared_facts([protocol]).items() if k != "versions"}
    return [{"name": name, "value": text(value)} for name, value in flat(kept).items()]


def _variants(entries: list[ResultEntry]) -> dict[str, list[ResultEntry]]:
    """Runs that differ in nothing but the seed, under the name that they have in common."""
    found: dict[str, list[ResultEntry]] = {}
    for name, entry in zip(_names(entries), entries, strict=True):
        members = found.setdefault(name, [])
        if all(_seed(entry) != _seed(member) for member in members):  # counted twice, a run would pass for no spread
            members.append(entry)
    return found


def _names(entries: list[ResultEntry]) -> list[str]:
    """What each run is called: by names that tell variants of one recipe apart; and the sides, where two are put beside
    each other that have the same."""
    rows = row_names([entry["result"] for entry in entries])
    of_sides: dict[str, set[Any]] = {}
    for name, entry in zip(rows, entries, strict=True):
        of_sides.setdefault(name, set()).add(entry.get("side"))
    return [
        f"{name} ({entry.get('side')})" if len(of_sides[name]) > 1 else name
        for name, entry in zip(rows, entries, strict=True)
    ]


def _settings(entry: ResultEntry) -> str:
    told = row_settings(entry["result"])
    parts = [flat(part if isinstance(part, dict) else {name: part}) for name, part in told.items()]
    return ", ".join(f"{name} {text(value) or 'none'}" for part in parts for name, value in part.items())


def _seed(entry: ResultEntry) -> str:
    return text(entry["result"]["protocol"].get("seed"))


def _recipe(name: str, members: list[ResultEntry], figures: Sequence[Figure]) -> dict[str, Any]:
    matrices = [grid(entry["result"]["matrix"]) for entry in members]
    means: list[list[float | None]] = []
    deviations: list[list[float | None]] = []
    if len(members) == 1:  # no spread, and a million cells of a thousand tasks
        means = [[None if cell is None else round(float(cell), _DIGITS) for cell in row] for row in matrices.pop()]
        deviations = [[None] * len(row) for row in means]
    for lines in zip(*matrices, strict=True):
        row = [spread(over, _DIGITS) for over in zip(*lines, strict=True)]
        means.append([cell["mean"] for cell in row])
        deviations.append([cell["std"] for cell in row])
    return {
        "name": name,
        "seeds": [_seed(entry) for entry in members],
        "figures": {figure.name: spread([figure.value(entry) for entry in members], _DIGITS) for figure in figures},
        "matrix": means,
        "matrix_std": deviations,
    }


def _weakest(variants: dict[str, list[ResultEntry]], tasks: list[str], most: int = 10) -> list[dict[str, Any]]:
    """The classes that score lowest at the end, of the recipe with the highest Last: its first seed."""
    ranked = {name: number(record(of[0]["result"]["metrics"]).get("last")) for name, of in variants.items()}
    known = {name: last for name, last in ranked.items() if last is not None}
    if not known:
        return []
    best = max(known, key=lambda name: known[name])
    found: list[tuple[float, dict[str, Any]]] = []
    for task, of_task in zip(tasks, items(variants[best][0]["result"].get("classes")), strict=False):
        for row in records(of_task):
            scores = {key: number(row.get(key)) for key in ("samples", "pretrained", "last")}
            if (last := scores["last"]) is not None:
                found.append((last, {"recipe": best, "class": text(row.get("class")), "task": task, **scores}))
    return [row for _, row in sorted(found, key=lambda pair: pair[0])[:most]]


def _held_out(variants: dict[str, list[ResultEntry]]) -> list[dict[str, Any]]:
    """Curves over the stream, per held-out set and recipe: mean, lowest and highest over seeds."""
    curves: dict[str, list[dict[str, Any]]] = {}
    names = dict.fromkeys(
        name for members in variants.values() for e in members for name in record(e["result"].get("held_out"))
    )
    for name in names:
        for recipe, members in variants.items():
            runs = [numbers(record(entry["result"].get("held_out")).get(name)) for entry in members]
            steps = list(zip(*(run for run in runs if run), strict=False))
            if not steps:
                continue
            known = [[v for v in step if v is not None] for step in steps]
            curves.setdefault(name, []).append(
                {
                    "name": recipe,
                    "values": [round(statistics.fmean(v), _DIGITS) if v else None for v in known],
                    "low": [min(v) if v else None for v in known],
                    "high": [max(v) if v else None for v in known],
                }
            )
    return [{"name": name, "lines": lines} for name, lines in curves.items()]


def pareto_of_results(group: dict[str, Any]) -> dict[str, Any] | None:
    """Last against held-out R@1 at the end; the front is of these two alone."""
    points = []
    for recipe in group["recipes"]:
        figures = recipe["figures"]
        x, y = figures["last"]["mean"], figures["held_out_r1"]["mean"]
        if x is not None and y is not None:
            points.append({"name": recipe["name"], "x": x, "y": y, "bytes": figures["stored_bytes"]["mean"]})
    if len(points) < 2:
        return None
    for p in points:
        p["front"] = unbeaten(p, points)
    return {
        "of": group["name"],
        "x": "Last",
        "y": "Held-out R@1 at the end",
        "y_kind": "percent",
        "rule": "On the front: no other recipe is at least as good in both scores.",
        "points": points,
    }
