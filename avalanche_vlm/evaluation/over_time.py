"""Figures of streams whose tasks are steps in time: how good a model is on its own time, on earlier ones and on later.

Rows of the matrix are steps of training, columns steps of testing (TiC-CLIP, arXiv 2310.16226; CLEAR, arXiv 2201.06289,
whose in-domain accuracy, backward and forward transfer are the same three means).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from avalanche_vlm.evaluation.declaration import Figure, ResultEntry, found_at, number


def own_step(rows: Sequence[Sequence[float | None]]) -> float | None:
    """The mean of the diagonal: each step's own test set, right after the step.

    :param rows: scores ``[T, T]`` in percent, without the pretrained model's; None for a missing one.
    :return: percentage; None where a cell is missing.

    >>> own_step([[80.0, 60.0], [70.0, 90.0]])
    85.0
    """
    return _mean([row[step] for step, row in enumerate(rows)])


def earlier_steps(rows: Sequence[Sequence[float | None]]) -> float | None:
    """The mean below the diagonal: test sets of earlier steps.

    :param rows: scores ``[T, T]`` in percent, without the pretrained model's; None for a missing one.
    :return: percentage; None where a cell is missing, or there is one step.

    >>> earlier_steps([[80.0, 60.0], [70.0, 90.0]])
    70.0
    """
    return _mean([cell for step, row in enumerate(rows) for cell in row[:step]])


def later_steps(rows: Sequence[Sequence[float | None]]) -> float | None:
    """The mean above the diagonal: test sets of later steps.

    :param rows: scores ``[T, T]`` in percent, without the pretrained model's; None for a missing one.
    :return: percentage; None where a cell is missing, or there is one step.

    >>> later_steps([[80.0, 60.0], [70.0, 90.0]])
    60.0
    """
    return _mean([cell for step, row in enumerate(rows) for cell in row[step + 1 :]])


def _mean(cells: Sequence[float | None]) -> float | None:
    known = [value for cell in cells if (value := number(cell)) is not None]
    return fmean(known) if known and len(known) == len(cells) else None


def _trained(entry: ResultEntry) -> list[list[Any]]:
    """The rows of a stream in time without the pretrained model's; none of another stream."""
    in_time = found_at(entry, "result", "protocol", "data", "steps") == "time"
    rows = found_at(entry, "result", "matrix")
    if not in_time or not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        return []
    trained = rows[1:]
    return trained if all(len(row) == len(trained) for row in trained) else []


FIGURES = (
    Figure(
        "own_step",
        "Own step",
        "percent",
        True,
        "Of a stream in time: the mean score on each step's own test set, right after the step.",
        lambda entry: own_step(_trained(entry)),
    ),
    Figure(
        "earlier_steps",
        "Earlier steps",
        "percent",
        True,
        "Of a stream in time: the mean score on the test sets of earlier steps, over all steps of training.",
        lambda entry: earlier_steps(_trained(entry)),
    ),
    Figure(
        "later_steps",
        "Later steps",
        "percent",
        True,
        "Of a stream in time: the mean score on the test sets of later steps, over all steps of training.",
        lambda entry: later_steps(_trained(entry)),
    ),
)
