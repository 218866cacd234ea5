"""Pilots carried on to all of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

from avalanche_vlm.evaluation.advice.halving import Round
from avalanche_vlm.evaluation.advice.pilot import Pilot


def foreseen(rounds: Sequence[Round], final: Round) -> Round:
    """A round, its pilots carried on to all data where they also ran on less.

    Some recipes need data and others are spoiled by them, so the order on a share is not that on the whole. Last goes
    on along the line through its values at the two largest shares, over the logarithm of the share; no further than it
    was observed, since lines do not hold for long. The line is drawn sample by sample: intervals stay paired, and get
    as much wider as the trend is uncertain. What is kept of zero-shot stays as measured.

    :param rounds: all there are, by ascending share.
    :param final: one of them.
    """
    carried = {}
    for name, pilot in final.pilots.items():
        before = [round for round in rounds if round.share < final.share and name in round.pilots]
        carried[name] = _carry(pilot, before[-1].pilots[name]) if before else pilot
    return replace(final, pilots=carried)


def _carry(more: Pilot, less: Pilot) -> Pilot:
    factor = min(1.0, log(1 / more.share) / log(more.share / less.share))
    tasks = tuple(late + factor * (late - early) for late, early in zip(more.tasks, less.tasks, strict=True))
    return replace(more, tasks=tasks)
