"""Figures that are read from a curve over the stream: one value per step, the first of the pretrained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche_vlm.evaluation.declaration import Figure, ResultEntry, found_at, number

HELD_OUT = "captions R@1"
"""The held-out curve that tables show."""
MODALITY_GAP = "captions modality gap"
"""The alignment curve that tables show."""


def at_the_end(curve: Any) -> float | None:
    """The last value of a curve; None where there is none.

    :param curve: numbers, one per step; anything else is no curve.

    >>> at_the_end([99.0, 90.0, 88.0]), at_the_end([]), at_the_end(None)
    (88.0, None, None)
    """
    return number(curve[-1]) if _is_curve(curve) else None


def lost(curve: Any) -> float | None:
    """What a curve fell by since the pretrained model, below 0 where it rose; None where either end is missing.

    :param curve: numbers, one per step; anything else is no curve.

    >>> lost([99.0, 90.0, 88.0]), lost([None, 3.0])
    (11.0, None)
    """
    start, end = (number(curve[0]), number(curve[-1])) if _is_curve(curve) else (None, None)
    return None if start is None or end is None else start - end


def _is_curve(curve: Any) -> bool:
    return isinstance(curve, Sequence) and not isinstance(curve, str) and len(curve) > 0


def _held_out(entry: ResultEntry) -> Any:
    return found_at(entry, "result", "held_out", HELD_OUT)


FIGURES = (
    Figure(
        "held_out_r1",
        "Held-out R@1",
        "percent",
        True,
        "The share of held-out captions whose best match among all pictures is the right one, and the reverse, "
        "averaged, after the last task. No task trains them.",
        lambda entry: at_the_end(_held_out(entry)),
    ),
    Figure(
        "held_out_loss",
        "Held-out loss",
        "points",
        False,
        "The held-out R@1 of the pretrained model less the one after the last task.",
        lambda entry: lost(_held_out(entry)),
    ),
    Figure(
        "modality_gap",
        "Modality gap",
        "ratio",
        None,
        "The distance between the mean image feature and the mean text feature.",
        lambda entry: at_the_end(found_at(entry, "result", "alignment", MODALITY_GAP)),
        shown=frozenset({"csv"}),
    ),
)
