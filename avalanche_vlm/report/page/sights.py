"""What a run keeps besides its result, as the page shows it: changed answers, a map of features, what is kept when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avalanche_vlm.evaluation.declaration import ResultEntry
from avalanche_vlm.report.page.reading import items, number, record, records, text

_MOVERS = 8
"""Points of a map that have a number, and a line in the table beside it."""
TIMELINES = (
    ("modules", "Modules in the model", "count"),
    ("bytes", "Bytes kept for the next task", "bytes"),
    ("parameters", "Parameters beyond the pretrained model's", "count"),
)
"""What is drawn over the stream: key, title, and unit."""


def sights(variants: Mapping[str, Sequence[ResultEntry]]) -> dict[str, Any]:
    """What the runs of a table have kept for their report. Of several recipes the one with the highest Last and the one
    with the lowest show their answers and features; each of a recipe stands for its first seed that has kept something.

    :param variants: results by the name of their recipe.
    """
    first = {name: found for name, members in variants.items() if (found := _first(members)) is not None}
    last = {name: number(record(entry["result"]["metrics"]).get("last")) for name, entry in first.items()}
    ranked = sorted(first, key=lambda name: -(float("-inf") if last[name] is None else float(last[name] or 0)))
    shown = dict.fromkeys([*ranked[:1], *ranked[1:][-1:]])
    return {
        "shown": [_shown(name, first[name]) for name in shown],
        "others": len(first) - len(shown),
        "timelines": _timelines({name: _views(entry) for name, entry in first.items()}) if first else [],
    }


def _first(members: Sequence[ResultEntry]) -> ResultEntry | None:
    return next((entry for entry in members if _views(entry)), None)


def _views(entry: ResultEntry) -> dict[str, Any]:
    return record(entry.get("views"))


def _shown(name: str, entry: ResultEntry) -> dict[str, Any]:
    views = _views(entry)
    changed = [_counts(row, ("samples", "lost", "won", "otherwise"), ("task",)) for row in records(views["changed"])]
    total = {key: sum(row[key] for row in changed) for key in ("samples", "lost", "won", "otherwise")}
    seed = text(entry["result"]["protocol"].get("seed"))
    return {
        "recipe": name,
        "seed": seed,
        "changed": changed,
        "total": total if changed else None,
        "examples": {kind: [e for e in records(views["examples"]) if e["kind"] == kind] for kind in ("lost", "won")},
        "confusions": _confusions(record(views["confusions"])),
        "map": _map(record(views["map"])),
    }


def _counts(row: dict[str, Any], counts: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    return {**{name: text(row[name]) for name in names}, **{name: row[name] for name in counts}}


def _confusions(found: dict[str, Any]) -> dict[str, Any] | None:
    """Shares of each class's test samples; the squares are left out where nothing was ever mistaken."""
    if not found:
        return None
    samples = found["samples"]

    def shares(square: list[list[int]]) -> list[list[float | None]]:
        return [[round(100 * n / of, 4) if of else None for n in row] for row, of in zip(square, samples, strict=True)]

    return {
        "classes": found["classes"],
        "of": found["of"],
        "before": shares(found["before"]),
        "after": shares(found["after"]),
        "turns": [_counts(row, ("samples", "before", "after"), ("true", "answer")) for row in records(found["turns"])],
    }


def _map(found: dict[str, Any]) -> dict[str, Any] | None:
    if not found:
        return None
    points = records(found["points"])
    farthest = sorted(range(len(points)), key=lambda n: -max(*(number(points[n][m]) or 0.0 for m in _MOVED)))
    tasks = list(dict.fromkeys(text(point["task"]) for point in points))
    return {
        "kind": found["kind"],
        "steps": found["steps"],
        "share": number(found["share"]),
        "tasks": tasks,
        "points": [
            {**{k: text(point[k]) for k in ("task", "name")}, **{k: number(point[k]) for k in _MOVED}}
            for point in points
        ],
        "farthest": farthest[:_MOVERS],
        "images": items(found["images"]),
        "texts": items(found["texts"]),
    }


_MOVED = ("image_moved", "text_moved")


def _timelines(views: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A line per recipe that was watched from the beginning. Lines that are 0 throughout are names alone (``none``): a
    chart without any other is a sentence."""
    views = {name: of for name, of in views.items() if of["timeline"]}
    if not views:
        return []
    found = []
    for key, title, kind in TIMELINES:
        lines = [{"name": name, "values": _kept(of, key)} for name, of in views.items()]
        there = [line for line in lines if any(line["values"])]
        none = [line["name"] for line in lines if not any(line["values"])]
        found.append({"key": key, "title": title, "kind": kind, "lines": there, "none": none})
    return found


def _kept(views: dict[str, Any], key: str) -> list[float]:
    rows = records(views["timeline"])
    if key == "bytes":
        return [row["ram_bytes"] + row["disk_bytes"] for row in rows]
    return [row[key] - (rows[0][key] if key == "parameters" else 0) for row in rows]
