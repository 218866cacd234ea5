"""Pilots carried on to all of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

import numpy as np

from avalanche_vlm.studies.advice.halving import Round
from avalanche_vlm.studies.advice.pilot import Pilot

SLOWING = 0.5
"""What a further step on the same scale brings, as part of the last one: on the picturebook a median of 0.44 (ten runs
of five recipes on four streams, from a sixteenth over a quarter to all of the data)."""


def foreseen(rounds: Sequence[Round], final: Round) -> Round:
    """A round, its pilots carried on to all data where they also ran on less.

    Some recipes need data and others are spoiled by them, so the order on a share is not that on the whole. Last goes
    on from the two largest shares over the logarithm of the share, half as steeply (:data:`SLOWING`), no further than
    the step that was observed, and on no task beyond 0 and 100 percent. That is done sample by sample: intervals stay
    paired, and get as much wider as the trend is uncertain. What is kept of zero-shot stays as measured.

    :param rounds: all there are, by ascending share.
    :param final: one of them.
    """
    carried = {}
    for name, pilot in final.pilots.items():
        before = [round for round in rounds if round.share < final.share and name in round.pilots]
        carried[name] = _carry(pilot, before[-1].pilots[name]) if before else pilot
    further = final.share < 1 and any(carried[name] is not pilot for name, pilot in final.pilots.items())
    return replace(final, pilots=carried, carried_on=further)


def _carry(more: Pilot, less: Pilot) -> Pilot:
    factor = SLOWING * min(1.0, log(1 / more.share) / log(more.share / less.share))
    tasks = tuple(_further(late, early, factor) for late, early in zip(more.tasks, less.tasks, strict=True))
    return replace(more, tasks=tasks)


def _further(late: np.ndarray, early: np.ndarray, factor: float) -> np.ndarray:
    """A task's samples, as far as its mean stays a score."""
    step = float((late - early).mean())
    room = 1 - late.mean() if step > 0 else late.mean()
    if abs(step) * factor > room:
        factor = float(room) / abs(step)
    return late + factor * (late - early)
