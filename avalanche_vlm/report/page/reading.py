"""Reading files that other versions or other hands may have written: what has another kind than expected is missing."""

from __future__ import annotations

import json
import math
from typing import Any

from avalanche_vlm.evaluation.declaration import number
from avalanche_vlm.units import one_line


def numbers(value: Any) -> list[float | None]:
    """A list of numbers, None where one is missing."""
    found = items(value)
    if {float}.issuperset(map(type, found)) and all(map(math.isfinite, found)):
        return list(found)  # as nearly all are: a matrix grows with the square of the tasks
    return [number(v) for v in found]


def grid(value: Any) -> list[list[float | None]]:
    """Rows of numbers, all as long as the longest."""
    rows = [numbers(row) for row in items(value)]
    width = max(map(len, rows), default=0)
    return [row + [None] * (width - len(row)) for row in rows]


def padded(names: list[str], count: int) -> list[str]:
    """As many names as there is something to name; a number where one is missing.

    >>> padded(["a"], 3), padded(["a", "b"], 1)
    (['a', '2', '3'], ['a'])
    """
    return [names[i] if i < len(names) else str(i + 1) for i in range(count)]


def transposed(rows: list[list[float | None]]) -> list[list[float | None]]:
    """Columns as rows."""
    return [list(column) for column in zip(*rows, strict=True)]


def items(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def records(value: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [v for v in items(value) if isinstance(v, dict)]


def record(value: Any) -> dict[str, Any]:
    """An object, or an empty one."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """A word or sentence as it stands; anything else as JSON; nothing for None.

    >>> text("a"), text(None), text([1, 2]), text({"a": True})
    ('a', '', '1, 2', '{"a": true}')
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(v, dict | list) for v in value):
        return ", ".join(text(v) for v in value)
    return json.dumps(value, ensure_ascii=False)


def texts(value: Any) -> list[str]:
    """A list of words or sentences."""
    return [text(v) for v in items(value)]


def titles(value: Any) -> list[str]:
    """A list of names, each in one line.

    >>> titles(["two\\nlines", 3])
    ['two lines', '3']
    """
    return [one_line(text(v)) for v in items(value)]


def how_far(partial: dict[str, Any]) -> str:
    """What a run has come to that is not finished.

    :param partial: what its ``partial.json`` holds, and ``side`` if it belongs to one of two that are put side by
        side.

    >>> how_far({"recipe": "lora", "seed": 0, "trained": 1, "matrix": [[10.0, 20.0], [30.0, None]]})
    'lora, seed 0 is not finished: 1 of 2 tasks trained, and a mean score of 30.0 % on them.'
    >>> how_far({"recipe": "lora", "seed": 0, "trained": 1, "matrix": [[10.0, 20.0]]})
    'lora, seed 0 is not finished: 1 of 2 tasks trained.'
    """
    rows, trained = grid(partial["matrix"]), partial["trained"]
    tasks = max(map(len, rows), default=0)
    known = [score for score in (rows[trained][:trained] if trained < len(rows) else []) if score is not None]
    scored = f", and a mean score of {sum(known) / trained:.1f} % on them" if known and len(known) == trained else ""
    side = f" of {text(partial['side'])}" if partial.get("side") else ""
    named = f"{text(partial.get('recipe'))}, seed {text(partial.get('seed'))}{side}"
    return f"{named} is not finished: {trained} of {tasks} tasks trained{scored}."
