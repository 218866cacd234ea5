"""Which recipe is recommended, and how sure that is."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from avalanche_vlm.studies.advice.constraints import Constraints, resampling, total_cost
from avalanche_vlm.studies.advice.halving import Round
from avalanche_vlm.studies.advice.pilot import Pilot
from avalanche_vlm.studies.advice.trend import foreseen
from avalanche_vlm.studies.attribution.bootstrap import Estimate
from avalanche_vlm.units import percent

TIE = 1.0
"""Points of Last that other virtues may cost, if the samples do not tell the two apart either."""
ENOUGH = 30
"""Test samples per task below which nothing is told apart."""


@dataclass(frozen=True)
class Recommendation:
    """A recommendation.

    :param recipe: name of the recommended recipe.
    :param confidence: ``"sure"``, ``"leaning"`` or ``"too little data"``.
    :param why: a sentence on the confidence.
    :param second: the best of the others that meet the constraints; None if there is none.
    :param round: the round that decided, carried on to all data.
    """

    recipe: str
    confidence: str
    why: str
    second: str | None
    round: Round


def gain(one: Pilot, other: Pilot) -> Estimate:
    """Points of Last that one has over the other, with its 95 % interval over test samples, which are the same."""
    return resampling(map(len, one.tasks)).mean(100 * (np.concatenate(one.tasks) - np.concatenate(other.tasks)))


def last_interval(pilot: Pilot) -> Estimate:
    """Last in percent, with its 95 % interval over test samples."""
    return resampling(map(len, pilot.tasks)).mean(100 * np.concatenate(pilot.tasks))


def final_round(rounds: Sequence[Round], constraints: Constraints, sound: Container[str]) -> Round:
    """The last round in which all ran that were to run, or at least the best two of those that can be recommended. Else
    the first.

    :param sound: recipes that meet the constraints in their last pilot.
    """
    for before, round in reversed(list(pairwise(rounds))):
        went_on = [name for name in before.pilots if name not in before.dropped and name in sound]
        best = sorted(went_on, key=lambda name: -constraints.score(before.pilots[name]))[:2]
        if round.complete or set(best) <= set(round.pilots):
            return round
    return rounds[0]


def latest(rounds: Sequence[Round]) -> dict[str, Pilot]:
    """Every recipe's pilot on the largest share that it ran on."""
    return {name: pilot for round in rounds for name, pilot in round.pilots.items()}


def eligible(pilots: Mapping[str, Pilot], constraints: Constraints, seconds: Mapping[str, float]) -> dict[str, Pilot]:
    """Pilots that meet the constraints.

    :param seconds: seconds of training on all data, by recipe.
    """
    return {
        name: pilot
        for name, pilot in pilots.items()
        if constraints.broken_by(pilot, seconds[name]) is None and constraints.meets(pilot)
    }


def choose(rounds: Sequence[Round], constraints: Constraints, seconds: Mapping[str, float]) -> Recommendation | None:
    """The best Last, carried on to all data (:func:`~avalanche_vlm.studies.advice.trend.foreseen`), among what meets
    the constraints in its last pilot, which trained on the most data. Of those within :data:`TIE` points of it whose
    paired interval does not exclude that they are equal, the one that keeps the most of zero-shot (in whole points),
    then the one with the least operational cost, then with the fewest bytes.

    :param seconds: seconds of training on all data, by recipe.
    :return: None if nothing meets them.
    """
    sound = eligible(latest(rounds), constraints, seconds)
    for measured in [final_round(rounds, constraints, sound), *reversed(rounds)]:
        round = foreseen(rounds, measured)
        fit = {name: pilot for name, pilot in round.pilots.items() if name in sound}
        if fit:
            break
    else:
        return None
    best = max(fit.values(), key=lambda pilot: pilot.last)
    tied = [p for p in fit.values() if p is best or (best.last - p.last <= TIE and gain(best, p).low <= 0)]
    chosen = max(tied, key=lambda p: (_whole(sound[p.recipe].zero_shot_kept), -total_cost(p.ledger), -p.full_bytes))
    others = sorted((p for p in fit.values() if p is not chosen), key=lambda p: -p.last)
    return Recommendation(
        chosen.recipe, *_confidence(chosen, others, round), others[0].recipe if others else None, round
    )


def _whole(value: float) -> int:
    """To whole points."""
    return int(np.floor(value + 0.5))


def _confidence(chosen: Pilot, others: Sequence[Pilot], round: Round) -> tuple[str, str]:
    on = f"on {percent(round.share)} of the data"
    if round.carried_on:
        on = f"carried on from {percent(round.share)} to all of the data"
    if chosen.n_test < ENOUGH:
        return "too little data", (
            f"the smallest task has {chosen.n_test} test samples, and fewer than {ENOUGH} do not tell recipes apart"
        )
    if not others:
        return "leaning", "nothing else that meets the constraints was there to compare with"
    found = [gain(chosen, other) for other in others]
    second, margin = others[0], found[0]
    interval = f"95 % interval {margin.low:+.1f} to {margin.high:+.1f}"
    interval = f"{margin.value:+.1f} points of Last over {second.recipe} {on}, {interval}"
    if margin.low > 0:
        return "sure", f"{interval}; it covers other test samples, not other seeds"
    if len(others) > 1 and all(each.low <= 0 <= each.high for each in found):
        return "too little data", f"{interval}; the test samples tell it from none of the {len(others)} others"
    return "leaning", f"{interval}, which does not exclude that they are equal or that {second.recipe} is better"
