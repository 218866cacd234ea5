"""Advice on a terminal."""

from __future__ import annotations

from typing import Any

from avalanche_vlm.report.table import console, words
from avalanche_vlm.units import human_bytes, percent, tell


def print_advice(advice: dict[str, Any]) -> None:
    """The pilots, the answer, the plan, and what is out.

    :param advice: what :func:`~avalanche_vlm.studies.advice.document.document` gave.
    """
    from rich.table import Table

    show, decided = console(), advice["answer"]["share of the data"]
    table = Table(title="pilots (scores in percent, changes in points; bytes and seconds on all data)")
    for title in ("recipe", "data", "Last", "interval", "expected", "zero-shot", "stored", "seconds", "operations", ""):
        table.add_column(title, justify="left" if title in ("recipe", "") else "right", no_wrap=bool(title))
    shown: dict[str, tuple[float, dict[str, Any]]] = {}
    # Every recipe's last round, or the one that decided, which the front is of.
    for round in sorted(advice["rounds"], key=lambda r: r["share of the data"] == decided):
        shown |= {pilot["recipe"]: (round["share of the data"], pilot) for pilot in round["recipes"]}
    for share, pilot in sorted(shown.values(), key=lambda found: (-found[0], -found[1]["score"])):
        marks = ["front"] if pilot["recipe"] in advice["front"] else []
        marks += [pilot["dropped"]] if pilot["dropped"] else []
        table.add_row(
            words(pilot["recipe"]),
            percent(share),
            f"{pilot['last']:.1f}",
            "{:.1f} to {:.1f}".format(*pilot["interval"]),
            f"{pilot['expected']:.1f}",
            "-" if pilot["zero_shot_kept"] is None else f"{pilot['zero_shot_kept']:+.1f}",
            human_bytes(pilot["bytes"]),
            f"{pilot['seconds']:.0f}",
            str(pilot["operational"]),
            words("; ".join(marks)),
        )
    show.print(table)
    answer = advice["answer"]
    tell(f"\n{answer['sentence']}")
    if answer["confidence"]:
        tell(f"Confidence: {answer['confidence']}: {answer['why']}.")
    for stage in advice["plan"]:
        brings, costs = stage["brings"], stage["costs"]
        gain = "" if brings["last"] is None else "brings {:+.1f} to {:+.1f} points of Last".format(*brings["last"])
        gain += f" over {brings['over']}, " if gain else ""
        tell(f"\nStage {stage['stage']}: {stage['do']}")
        stored, operations = human_bytes(costs["bytes"]), f"{costs['operational']} ({_parts(costs)})"
        tell(f"  {gain}stores {stored}, operational cost {operations}")
        tell(f"  watch {stage['watch']}\n  go on when {stage['go on when']}")
    for name in ("excluded", "not run"):
        for entry in advice[name]:
            tell(f"{name}: {entry['recipe']}: {entry['because']}")
    for warning in advice["warnings"]:
        tell(f"note: {warning}")


def _parts(costs: dict[str, Any]) -> str:
    found = [", ".join(costs["artifacts"]), *(name for name, n in costs["parts"].items() if n and name != "artifacts")]
    return "; ".join(part for part in found if part) or "none"
