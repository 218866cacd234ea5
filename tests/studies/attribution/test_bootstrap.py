"""Intervals hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.attribution.bootstrap import PairedBootstrap


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_of_a_paired_difference_cover_at_the_stated_rate(level):
    rng = np.random.default_rng(0)
    # Hits of two models on the same samples: 0.7 and 0.6, and correlated. Standard error of the coverage: below 0.02.
    truth, n, trials = 0.1, 200, 600
    bootstrap = PairedBootstrap([n], draws=400, level=level)
    covered = 0
    for _ in range(trials):
        drawn = rng.random(n)
        first, second = drawn < 0.7, np.where(rng.random(n) < 0.5, drawn < 0.6, rng.random(n) < 0.6)
        found = bootstrap.mean(first.astype(float) - second)
        covered += found.low <= truth <= found.high
    assert abs(covered / trials - level) < 0.04


def test_a_large_group_does_not_weigh_more_and_each_is_resampled_by_itself():
    bootstrap = PairedBootstrap([2, 100], draws=500)
    found = bootstrap.mean([0.0, 0.0, *np.ones(100)])
    # Nothing varies within the groups, so nothing is uncertain.
    assert found.value == pytest.approx(0.5) and found.low == pytest.approx(0.5) and found.high == pytest.approx(0.5)


def test_figures_are_resampled_together():
    values = np.random.default_rng(1).random(50)
    bootstrap = PairedBootstrap([50], draws=200)
    first, second = bootstrap.mean(values), bootstrap.mean(values + 3)
    assert second.low - first.low == pytest.approx(3) and second.high - first.high == pytest.approx(3)


def test_the_spread_is_that_of_theory():
    values = np.random.default_rng(2).normal(size=400)
    found = PairedBootstrap([400], draws=4000).mean(values)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_bad_input_is_refused():
    for arguments in ([], [3, 0]):
        with pytest.raises(InputError, match="at least one sample"):
            PairedBootstrap(arguments)
    with pytest.raises(InputError, match="level"):
        PairedBootstrap([3], level=1.0)
    with pytest.raises(InputError, match="3 samples need as many values"):
        PairedBootstrap([3]).mean([1.0])
