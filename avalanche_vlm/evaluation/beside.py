"""Which published figures may stand beside results: those of the same protocol, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avalanche_vlm.benchmarks.published.results import PublishedRow, PublishedTable, tables_on
from avalanche_vlm.evaluation.comparable import deciding


@dataclass(frozen=True)
class Beside:
    """What stands beside some results.

    :param rows: published rows; none where nothing was published, or under another protocol.
    :param sentences: where the rows are from and what to mind, or why there are none although there is a table.
    """

    rows: tuple[PublishedRow, ...] = ()
    sentences: tuple[str, ...] = ()


def published_beside(results: Sequence[Mapping[str, Any]]) -> Beside:
    """The published figures that may stand beside results.

    :param results: what ``result.json`` holds of each; they share a table.
    :return: the rows of all tables with the same protocol; of a benchmark whose tables all have another one, a sentence
        that names the first field in which the nearest of them differs; of random weights, a sentence that says so.
    """
    protocol = results[0]["protocol"] if results else {}
    tables = tables_on(str(protocol.get("benchmark")))
    if not tables:
        return Beside()
    if "seed" in (protocol.get("weights") or {}):
        return Beside(sentences=("Published figures are not shown: these models started from random weights.",))
    facts = deciding(protocol)
    nearest = min(tables, key=lambda table: len(list(_other(table, facts))))
    if differs := next(_other(nearest, facts), None):
        return Beside(sentences=(f"Published figures are not shown: {nearest.named} has another protocol, {differs}.",))
    same = [table for table in tables if next(_other(table, facts), None) is None]
    named = " and ".join(table.named for table in same)
    source = f"Rows marked published are {named}; whether the models started from the same weights is not known."
    notes = dict.fromkeys(f"{note[:1].upper()}{note[1:]}." for table in same for note in table.notes)
    return Beside(tuple(row for table in same for row in table.rows), (source, *notes))


def _other(table: PublishedTable, facts: Mapping[str, Any]) -> Iterator[str]:
    """The fields in which a protocol differs from a table's, in words."""
    for name, wanted in table.protocol.items():
        found = facts.get(name)
        if found == wanted:
            continue
        if isinstance(wanted, list) and isinstance(found, list):
            if len(found) != len(wanted):
                yield f"{name} has {len(wanted)} entries there and {len(found)} here"
                continue
            place = next(at for at, (one, other) in enumerate(zip(wanted, found, strict=True)) if one != other)
            yield f"{name}[{place}] is {json.dumps(wanted[place])} there and {json.dumps(found[place])} here"
            continue
        yield f"{name} is {json.dumps(wanted)} there and {json.dumps(found, default=str)} here"
