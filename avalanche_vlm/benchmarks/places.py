"""Where the samples of joined and divided data sets are from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from avalanche_vlm.compat.data_sets import stands_on

Located = Iterator[tuple[Any, np.ndarray, np.ndarray]]
"""Data sets, each with which of some samples are from it, and their places there."""


def located(dataset: Any, rows: np.ndarray) -> Located:
    """The data sets that samples are from, of those that an Avalanche data set was made of.

    :param dataset: an experience's, torch's ``ConcatDataset`` or ``Subset``, or one that stands on nothing else.
    :param rows: the samples' places ``[N]``; below 0 they count from the end, as in an index of ``Subset``.
    """
    if not len(rows):
        return
    parts, chosen = stands_on(dataset)
    if not len(parts):
        if (rows < 0).any() and hasattr(dataset, "__len__"):
            rows = np.where(rows < 0, rows + len(dataset), rows)
        yield dataset, np.arange(len(rows)), rows
        return
    inner = rows if chosen is None else np.fromiter(chosen, np.int64, len(chosen))[rows]
    if len(parts) == 1:  # which need not say how long it is
        yield from located(parts[0], inner)
        return
    begins = np.cumsum([0, *map(len, parts)])
    inner = np.where(inner < 0, inner + begins[-1], inner)
    part_of = np.searchsorted(begins, inner, side="right") - 1
    for number, part in enumerate(parts):
        mine = np.flatnonzero(part_of == number)
        for source, which, places in located(part, inner[mine] - begins[number]):
            yield source, mine[which], places
