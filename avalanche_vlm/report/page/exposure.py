"""What a diagnosis says, in the order in which a reader asks: how much, why, where, how it went."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.report.page.reading import (
    grid,
    number,
    numbers,
    padded,
    record,
    records,
    text,
    texts,
    titles,
    transposed,
)

MODES = (
    ("drift", "Cross-modal drift", "images and texts stop matching"),
    ("interference", "Parameter interference", "new tasks damage weights that old ones need"),
    ("erosion", "Zero-shot erosion", "abilities that no task trains are lost"),
)
"""The survey's three failure modes: key, name, and what breaks."""


def interval(source: Any) -> dict[str, float | None]:
    """Points with their interval, and what it says about zero."""
    found = record(source)
    return {"points": number(found.get("points")), "low": number(found.get("low")), "high": number(found.get("high"))}


def exposures(diagnosis: dict[str, Any]) -> list[dict[str, Any]]:
    """The three losses in points, with a reading of their intervals."""
    given = record(diagnosis.get("exposures"))
    if not given:
        return []
    found = []
    for key, name, breaks in MODES:
        figures = interval(given.get(key))
        measure = text(record(given.get(key)).get("measure"))
        found.append(
            {"mode": key, "name": name, "breaks": breaks, **figures, "reading": reading(figures), "measure": measure}
        )
    return found


def reading(figures: dict[str, float | None]) -> str:
    """What may be said of a loss.

    >>> reading({"points": 3.0, "low": 1.0, "high": 5.0}), reading({"points": 3.0, "low": -1.0, "high": 5.0})
    ('clear loss', 'cannot be told from no loss')
    """
    points, low, high = figures["points"], figures["low"], figures["high"]
    if points is None:
        return "not measured"
    if low is None or high is None:
        return "no interval"
    if low > 0:
        return "clear loss"
    return "clear gain" if high < 0 else "cannot be told from no loss"


def attribution(diagnosis: dict[str, Any]) -> list[dict[str, Any]]:
    """What undoing each kind of damage brings back, and the verdict, for each loss that was attributed.

    :param diagnosis: what ``diagnosis.json`` holds; an older version has one loss, of pairs.
    """
    given = diagnosis.get("attribution")
    return [_attribution(loss) for loss in (records(given) if isinstance(given, list) else [record(given)]) if loss]


def _attribution(given: dict[str, Any]) -> dict[str, Any]:
    verdict = record(given.get("verdict"))
    return {
        "score": text(given.get("score")) or "score",
        "before": number(given.get("before", given.get("pretrained"))),
        "before_is": text(given.get("before_is")) or "pretrained",
        "trained": number(given.get("trained")),
        "lost": interval(given.get("lost")),
        "interventions": [
            {"name": text(i.get("name")), "undoes": text(i.get("undoes")), **_recovered(i)}
            for i in records(given.get("interventions"))
        ],
        "unexplained": interval(given.get("unexplained")),
        "modules": sorted(
            ({"block": text(m.get("block")), **_recovered(m)} for m in records(given.get("modules"))),
            key=lambda m: -(m["recovered"] if m["recovered"] is not None else float("-inf")),
        ),
        "verdict": {
            "cause": text(verdict.get("cause")),
            "module": text(verdict.get("module")) or None,
            "sentence": text(verdict.get("sentence")),
        },
    }


def _recovered(source: dict[str, Any]) -> dict[str, float | None]:
    return {name: number(source.get(name)) for name in ("recovered", "low", "high", "share")}


def modules(diagnosis: dict[str, Any]) -> dict[str, Any] | None:
    """Per block (row) and task (column): conflict with earlier tasks, and how far the task moved the block."""
    given = record(diagnosis.get("interference"))
    blocks = texts(given.get("blocks"))
    if not blocks:
        return None
    conflict = record(given.get("conflict"))
    maps = {
        "conflict": _map(conflict.get("cosine"), len(blocks)),
        "negative_share": _map(conflict.get("negative share"), len(blocks)),
        "updates": _map(given.get("update"), len(blocks)),
    }
    width = max((len(cells[0]) for cells in maps.values() if cells), default=0)
    return {"blocks": blocks, "tasks": padded(titles(diagnosis.get("tasks")), width), **maps} if width else None


def _map(rows: Any, blocks: int) -> list[list[float | None]]:
    """``[task][block]`` as ``[block][task]``: a task without earlier ones has a null row. Empty if it does not fit."""
    if not isinstance(rows, list) or not rows:
        return []
    filled = grid([row if isinstance(row, list) else [None] * blocks for row in rows])
    return transposed(filled) if len(filled[0]) == blocks else []


def drift(diagnosis: dict[str, Any]) -> dict[str, Any] | None:
    """Curves over the stream, and the similarity of each layer to the pretrained one (rows: layers)."""
    given = record(diagnosis.get("drift"))
    curves = [
        {"name": name, "kind": "percent" if "hit@" in name or "R@" in name else "ratio", "values": numbers(values)}
        for name, values in record(given.get("curves")).items()
    ]
    curves = [c for c in curves if any(v is not None for v in c["values"])]
    layers = record(given.get("layers"))
    names = texts(layers.get("names"))
    cka = _map(layers.get("CKA"), len(names))
    if not curves and not cka:
        return None
    tasks = titles(diagnosis.get("tasks"))
    steps = padded(["pretrained", *tasks], len(cka[0]) if cka else 0)
    return {"curves": curves, "layers": {"names": names, "steps": steps, "cka": cka} if cka else None, "tasks": tasks}


def erosion(diagnosis: dict[str, Any]) -> dict[str, Any] | None:
    """Scores and calibration of held-out sets over the stream, and the classes that lost most."""
    given = record(diagnosis.get("erosion"))
    sets = [
        {
            "name": name,
            "score": numbers(record(s).get("score")),
            "calibration": numbers(record(s).get("calibration error")),
        }
        for name, s in record(given.get("sets")).items()
    ]
    classes = []
    for c in records(given.get("classes")):
        before, after = number(c.get("before")), number(c.get("after"))
        lost = None if before is None or after is None else round(before - after, 4)
        names = {"set": text(c.get("set")), "class": text(c.get("class"))}
        classes.append({**names, "before": before, "after": after, "lost": lost})
    if not sets and not classes:
        return None
    return {"sets": sets, "classes": classes, "tasks": titles(diagnosis.get("tasks"))}
