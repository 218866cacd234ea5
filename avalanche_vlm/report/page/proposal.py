"""What an advice says: the pilots and their front, the staged plan, what each recipe costs."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.evaluation.declaration import Figure
from avalanche_vlm.evaluation.figures import list_figures
from avalanche_vlm.report.page.reading import items, number, numbers, record, records, text, texts
from avalanche_vlm.report.rounding import unit_of


def ledger(entries: dict[str, Any]) -> dict[str, Any] | None:
    """A line per cost, a column per recipe; what nobody measured is left out.

    :param entries: entries of the ledger by recipe.
    """
    recipes = {name: record(entry) for name, entry in entries.items() if isinstance(entry, dict)}
    lines = []
    for figure in list_figures("ledger"):
        values = [_cost(figure, entry) for entry in recipes.values()]
        if any(value is not None for value in values):
            lines.append({"key": figure.name, "title": figure.title, "kind": figure.unit, "values": values})
    return {"recipes": list(recipes), "lines": lines} if lines else None


def _cost(figure: Figure, entry: dict[str, Any]) -> Any:
    if figure.unit == "flag" and figure.name in entry and entry[figure.name] is None:
        return "unknown"  # measured, and nobody can tell
    value = figure.checked(entry.get(figure.name))
    return text(value) or None if figure.unit == "words" else value


def rounds(advice: dict[str, Any]) -> list[dict[str, Any]]:
    """Successive halving as it went: who was tried on how much of the data, and who was dropped why."""
    found = []
    for r in records(advice.get("rounds")):
        recipes = []
        for entry in records(r.get("recipes")):
            low, high = _pair(entry.get("interval"))
            names = ("score", "last", "expected", "zero_shot_kept", "bytes", "seconds", "operational", "n_test")
            figures = {name: number(entry.get(name)) for name in names}
            dropped = text(entry.get("dropped")) or None
            recipes.append(
                {"recipe": text(entry.get("recipe")), **figures, "low": low, "high": high, "dropped": dropped}
            )
        if recipes:
            found.append({"share": number(r.get("share of the data")), "recipes": recipes})
    return found


def pareto_of_pilots(advice: dict[str, Any]) -> dict[str, Any] | None:
    """Last, as expected on all data, against zero-shot kept in the round that decided; the front is the advice's."""
    share = number(record(advice.get("answer")).get("share of the data"))
    tried = rounds(advice)
    decided = [r for r in tried if r["share"] == share] or tried
    front = texts(advice.get("front"))
    points = []
    for r in decided[-1]["recipes"] if decided else []:
        last = r["last"] if r["expected"] is None else r["expected"]
        if last is not None and r["zero_shot_kept"] is not None:
            scores = {"x": last, "y": r["zero_shot_kept"]}
            points.append({"name": r["recipe"], **scores, "bytes": r["bytes"], "front": r["recipe"] in front})
    if not points:
        return None
    return {
        "of": "the round that decided",
        "x": "Last",
        "y": "Held-out change",
        "y_kind": "points",
        "rule": "On the front: no other recipe is at least as good in scores, bytes, seconds and operation at once.",
        "points": points,
    }


def plan(advice: dict[str, Any]) -> list[dict[str, Any]]:
    """Stages: what to do, what it brings and costs, what to watch, when to go on."""
    found = []
    for position, stage in enumerate(records(advice.get("plan")), start=1):
        brings = []
        promised = record(stage.get("brings"))
        for name, bounds in promised.items():
            if name not in ("over", "share of the data"):
                low, high = _pair(bounds)
                brings.append({"name": _spoken(name), "kind": "points", "low": low, "high": high})
        found.append(
            {
                "stage": int(number(stage.get("stage")) or position),
                "do": text(stage.get("do")),
                "over": text(promised.get("over")) or None,
                "share": number(promised.get("share of the data")),
                "brings": brings,
                "costs": [_priced(name, value) for name, value in record(stage.get("costs")).items()],
                "watch": text(stage.get("watch")),
                "go_on_when": text(stage.get("go on when")),
            }
        )
    return found


def _priced(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"name": _spoken(name), "kind": "flag", "value": value}
    if isinstance(value, dict):  # a sum's parts, those of nothing left out
        value = ", ".join(f"{text(part)} {name}" for name, part in value.items() if part)
    amount = number(value)
    if amount is None:
        return {"name": _spoken(name), "kind": "words", "value": text(value) or None}
    kind = unit_of(name)
    spoken = _spoken(name).removesuffix(" bytes") if kind == "bytes" else _spoken(name)  # the figure brings its unit
    return {"name": spoken, "kind": kind, "value": amount}


def circumstances(advice: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, what was left out, and warnings."""
    minutes = record(advice.get("minutes"))
    left_out = [*records(advice.get("excluded")), *records(advice.get("not run"))]
    return {
        "constraints": [_wish(k, v) for k, v in record(advice.get("constraints")).items() if _binds(k, v)],
        "minutes": {"asked": number(minutes.get("asked")), "used": number(minutes.get("used"))},
        "seeds": texts(advice.get("seeds")),
        "excluded": [{k: text(e.get(k)) for k in ("recipe", "because")} for e in left_out],
        "warnings": texts(advice.get("warnings")),
    }


def _binds(name: str, value: Any) -> bool:
    """A limit that is given, or something that is not allowed (``no_raw_data`` or ``raw_data: false``)."""
    return name.startswith("no_") == value if isinstance(value, bool) else value is not None


def _wish(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return _spoken(name if value else f"no_{name}")
    return f"{_spoken(name)} {value:,}" if isinstance(value, int) else f"{_spoken(name)} {text(value)}"


def _pair(bounds: Any) -> tuple[float | None, float | None]:
    known = numbers(items(bounds))
    return (known[0], known[1]) if len(known) == 2 else (None, None)


def _spoken(name: str) -> str:
    known = {"bytes": "stored", "seconds": "training seconds", "operational": "operational cost", "parts": "made of"}
    return known[name] if name in known else name.replace("_", " ").replace(".", ", ")
