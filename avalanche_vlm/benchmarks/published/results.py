"""Figures that papers report, as data: where they stand, under which protocol they were obtained, and what they are.

Nothing here was measured by us, and nothing is guessed: what a paper does not say is not there. This module is light:
no image and no model is touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

FIGURES_KNOWN = ("last", "avg", "transfer")
"""Figures that a published row may have, by the names that they have in results, in percent."""


@dataclass(frozen=True)
class PublishedRow:
    """What a paper reports of one method.

    :param method: what the paper calls it.
    :param recipe: the recipe of ours that does the same; None where there is none.
    :param figures: values in percent by the figure's name, of :data:`FIGURES_KNOWN`, rounded as they were published.
    :param matrix: scores in percent, a row per training step without the pretrained model, a column per task; None
        where they were not published.
    """

    method: str
    recipe: str | None
    figures: Mapping[str, float]
    matrix: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    :param paper: how the paper is cited.
    :param short: the paper's authors and year, for captions.
    :param arxiv: the paper's number on arXiv.
    :param table: which table of the paper it is.
    :param read_from: where the figures were read.
    :param protocol: what a result must say to stand beside it, by the dotted names of a result's protocol.
    :param run: words for the command line that ask for the same stream and model, by option.
    :param options: what ``--option`` takes for the same stream, one after another.
    :param notes: what a reader should know of the comparison, a sentence each.
    :param rows: the methods in the order of the table.
    """

    paper: str
    short: str
    arxiv: str
    table: str
    read_from: str
    protocol: Mapping[str, Any]
    run: Mapping[str, str]
    options: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    @property
    def named(self) -> str:
        """The table and its paper in a phrase."""
        return f"{self.table} of {self.short} (arXiv {self.arxiv})"


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """All tables that are known, in the order of their files' names."""
    folder = files(__package__)
    papers = sorted((of for of in folder.iterdir() if of.name.endswith(".json")), key=lambda of: of.name)
    return tuple(table for paper in papers for table in _tables(json.loads(paper.read_text(encoding="utf-8"))))


def tables_on(benchmark: str) -> list[PublishedTable]:
    """The tables with results on a benchmark.

    :param benchmark: the benchmark's name.

    >>> [table.short for table in tables_on("mtil")]
    ['Yu et al. 2024', 'Zheng et al. 2023', 'Zheng et al. 2023']
    """
    return [table for table in published_tables() if table.protocol["benchmark"] == benchmark]


def _tables(paper: Mapping[str, Any]) -> list[PublishedTable]:
    return [
        PublishedTable(
            paper["paper"],
            paper["short"],
            paper["arxiv"],
            table["table"],
            paper["read_from"],
            table["protocol"],
            {option: word for option, word in table["run"].items() if option != "option"},
            _several(table["run"].get("option", [])),
            tuple(paper["notes"]),
            tuple(
                PublishedRow(row["method"], row["recipe"], row["figures"], _matrix(row.get("matrix")))
                for row in table["results"]
            ),
        )
        for table in paper["tables"]
    ]


def _several(given: str | list[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _matrix(rows: list[list[float]] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if rows is None else tuple(map(tuple, rows))
