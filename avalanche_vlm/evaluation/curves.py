"""Figures that are read from a curve over the stream: one value per step, the first of the pretrained model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from avalanche_vlm.evaluation.declaration import EVERYWHERE, Figure, ResultEntry, found_at, number

HELD_OUT = "captions R@1"
"""The held-out curve of the picturebook's captions."""
_FIRST, _K = " R@1", re.compile(r" R@\d+( (image to text|text to image))?$")
"""How the curve of a held-out set of captions ends that tables show, and how all of its curves end."""
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


def curves_by_set(held_out: Any) -> dict[str, Any]:
    """The curve that tables and plots show of each held-out set: of captions R@1, of classes the accuracy.

    :param held_out: curves by their names, as ``result.json`` holds them; anything else has none.

    >>> curves_by_set({"coco R@1": [9.0], "coco R@1 image to text": [8.0], "coco R@5": [9.9], "size": [7.0]})
    {'coco R@1': [9.0], 'size': [7.0]}
    """
    known = held_out.items() if isinstance(held_out, Mapping) else ()
    return {name: curve for name, curve in known if name.endswith(_FIRST) or not _K.search(name)}


def _mean(entry: ResultEntry, captions: bool, of_curve: Callable[[Any], float | None]) -> float | None:
    """The mean over held-out sets of a kind; None where there are none, or one of them has no value."""
    curves = curves_by_set(found_at(entry, "result", "held_out"))
    values = [of_curve(curve) for name, curve in curves.items() if name.endswith(_FIRST) == captions]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


FIGURES = (
    Figure(
        "held_out_r1",
        "Held-out R@1",
        "percent",
        True,
        "The share of held-out captions whose best match among all pictures is the right one, and the reverse, "
        "averaged, after the last task. No task trains them. Of several sets of captions it is the mean.",
        lambda entry: _mean(entry, True, at_the_end),
    ),
    Figure(
        "held_out_loss",
        "Held-out loss",
        "points",
        False,
        "The held-out R@1 of the pretrained model less the one after the last task.",
        lambda entry: _mean(entry, True, lost),
    ),
    Figure(
        "held_out_top1",
        "Held-out top-1",
        "percent",
        True,
        "The share of held-out images whose class is the right one of their set's, after the last task; of several "
        "sets the mean. No task trains them.",
        lambda entry: _mean(entry, False, at_the_end),
        shown=EVERYWHERE - {"table"},
    ),
    Figure(
        "held_out_top1_loss",
        "Held-out top-1 loss",
        "points",
        False,
        "The held-out top-1 of the pretrained model less the one after the last task.",
        lambda entry: _mean(entry, False, lost),
        shown=EVERYWHERE - {"table"},
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
