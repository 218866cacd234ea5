"""Pilots carried on to all of the data."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import pilot

from avalanche_vlm.studies.advice.choice import choose, gain
from avalanche_vlm.studies.advice.constraints import Constraints
from avalanche_vlm.studies.advice.halving import Round
from avalanche_vlm.studies.advice.trend import foreseen


def rounds(*shares: float, **last: tuple[float, ...]) -> list[Round]:
    found = [Round(share) for share in shares]
    for name, values in last.items():
        for round, value in zip(found, values, strict=False):
            round.pilots[name] = pilot(name, value, share=round.share)
    return found


@pytest.mark.parametrize(
    "shares, values, expected",
    [
        ((1 / 16, 1 / 4), (50, 60), 65),  # as many doublings again, half as steeply
        ((1 / 4, 1 / 2), (50, 60), 65),
        ((1 / 16, 1 / 2), (50, 68), 71),  # a third of the way on
        ((1 / 64, 1 / 16), (50, 60), 65),  # two steps are left, and a trend is trusted for one
        ((1 / 16, 1 / 4), (60, 50), 45),
        ((1 / 4, 1.0), (50, 60), 60),  # all of it was seen
    ],
)
def test_last_goes_on_over_the_logarithm_of_the_share(shares, values, expected):
    found = rounds(*shares, lora=values)
    carried = foreseen(found, found[-1])
    assert carried.pilots["lora"].last == pytest.approx(expected)
    assert found[-1].pilots["lora"].last == pytest.approx(values[-1])  # what was measured stays
    assert carried.pilots["lora"].kept is found[-1].pilots["lora"].kept


@pytest.mark.parametrize("values, expected", [((80, 96), 100), ((0, 100), 100), ((60, 10), 0), ((96, 98), 99)])
def test_an_expected_score_stays_a_score(values, expected):
    found = rounds(1 / 16, 1 / 4, lora=values)
    carried = foreseen(found, found[1]).pilots["lora"]
    assert carried.last == pytest.approx(expected)
    assert all(0 <= hits.mean() <= 1 + 1e-12 for hits in carried.tasks)


def test_what_ran_once_stays_as_it_was_measured():
    found = rounds(1 / 16, 1 / 4, lora=(50, 60))
    assert foreseen(found, found[0]).pilots["lora"].last == pytest.approx(50)


def test_what_rises_is_taken_before_what_is_spoiled_by_more_data():
    found = rounds(1 / 16, 1 / 4, zscl=(66, 64), ranpac=(40, 63))
    choice = choose(found, Constraints(), {"zscl": 1.0, "ranpac": 1.0})
    assert choice.recipe == "ranpac" and "carried on from 25% to all of the data" in choice.why


def test_the_interval_holds_the_uncertainty_of_the_trend():
    rng = np.random.default_rng(0)
    found = rounds(1 / 16, 1 / 4, lora=(50, 60), zscl=(50, 60))
    for round in found:
        for p in round.pilots.values():
            for hits in p.tasks:
                rng.shuffle(hits)
    measured = gain(found[1].pilots["lora"], found[1].pilots["zscl"])
    carried = foreseen(found, found[1])
    expected = gain(carried.pilots["lora"], carried.pilots["zscl"])
    # The variance of 3/2 a - 1/2 b, if a and b are independent and vary alike.
    assert (expected.high - expected.low) == pytest.approx(2.5**0.5 * (measured.high - measured.low), rel=0.15)
