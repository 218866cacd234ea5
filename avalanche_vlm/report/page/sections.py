"""The sections of the report, in the order in which a reader asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Section:
    """A part of the report.

    :param name: what leads to it on the page.
    :param title: the words above it.
    :param link: its word in the navigation.
    :param needs: what it says is missing by, in the content's ``missing``; empty for one that always has something.
    """

    name: str
    title: str
    link: str
    needs: str = ""


SECTIONS = (
    Section("exposures", "What the training broke", "Losses", "exposures"),
    Section("attribution", "Which cause explains the loss", "Causes", "attribution"),
    Section("modules", "Where in the model", "Modules", "modules"),
    Section("performance", "What the model can do after each task", "Performance", "matrices"),
    Section("changes", "Whose answer changed", "Answers", "changes"),
    Section("map", "Where images and texts moved", "Map", "map"),
    Section("curves", "Over the stream", "Over the stream", "curves"),
    Section("kept", "What is kept between tasks", "Kept", "timeline"),
    Section("pareto", "What is gained against what is kept", "Trade-off", "pareto"),
    Section("plan", "The plan, in stages", "Plan", "plan"),
    Section("costs", "What it costs", "Costs", "ledger"),
    Section("protocol", "Protocol and versions", "Protocol"),
    Section("words", "The words", "Words"),
)
"""All but the answer, which comes first."""


def said_otherwise(found: Mapping[str, Any]) -> set[str]:
    """What sections have to say although that is missing which they are named for: blocks that were put back one by
    one, warnings of an advice without a plan.

    :param found: the report's content.
    """
    there = {
        "modules": any(a["modules"] for a in found["attribution"]) or bool((found["drift"] or {}).get("layers")),
        "plan": bool(found["circumstances"]),
        "pareto": bool(found["rounds"]),
    }
    return {name for name, has in there.items() if has}


def empty_sections(found: Mapping[str, Any], missing: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """The sections that have nothing to say yet, a line for each command that would fill some.

    :param found: the report's content.
    :param missing: what is missing of it, with the command that gives it.
    """
    lines: dict[tuple[str, str], list[Section]] = {}
    for section in SECTIONS:
        absent = missing.get(section.needs)
        if absent is not None and section.needs not in said_otherwise(found):
            lines.setdefault((absent["command"], absent["sentence"]), []).append(section)
    return [
        {
            "sections": [section.name for section in sections],
            "titles": [section.title for section in sections],
            "command": command,
            "sentence": sentence,
        }
        for (command, sentence), sections in lines.items()
    ]
