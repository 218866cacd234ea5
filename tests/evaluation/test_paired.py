"""Intervals of what was lost between two answers to the same questions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from avalanche_vlm.evaluation.paired import PairedLoss, mean_loss, paired_loss, wilson_interval


def answers(a: int, b: int, c: int, d: int) -> tuple[list[int], list[int]]:
    """So many right both times, the first time alone, the second time alone, and never."""
    return [1] * (a + b) + [0] * (c + d), [1] * a + [0] * b + [1] * c + [0] * d


@pytest.mark.parametrize(
    ("cells", "expected"),
    [  # by hand, from the formulas of Newcombe's method 10
        ((20, 12, 2, 16), (0.2, 0.0562, 0.3292)),
        ((36, 12, 2, 0), (0.2, 0.0569, 0.3404)),
    ],
)
def test_the_interval_is_newcombes(cells, expected):
    assert paired_loss(*answers(*cells))[:3] == pytest.approx(expected, abs=6e-5)
    first, second = answers(*cells)
    turned = paired_loss(second, first)
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-expected[0], -expected[2], -expected[1]), abs=6e-5
    )


def test_wilsons_bounds_solve_his_equation():
    for right, n in ((0, 5), (3, 10), (10, 10)):
        low, high = wilson_interval(right / n, n)
        for bound in (low, high):
            if 1e-9 < bound < 1 - 1e-9:
                assert abs(right / n - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / n), rel=1e-5)
        assert low <= right / n <= high


@pytest.mark.parametrize("cells", [(5, 0, 0, 0), (0, 0, 0, 5), (0, 5, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0)])
def test_whatever_is_answered_the_interval_has_the_loss_in_it_and_stays_within_bounds(cells):
    found = paired_loss(*answers(*cells))
    assert -1 <= found.low <= found.value <= found.high <= 1 and found.high > found.low


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    cells = np.array([0.55, 0.15, 0.08, 0.22])
    drawn = rng.multinomial(80, cells, size=400)
    found = [paired_loss(*answers(*map(int, counts))) for counts in drawn]
    covered = np.mean([loss.low <= 0.07 <= loss.high for loss in found])
    assert 0.92 <= covered <= 0.99


def test_fractions_count_as_expectations_and_several_captions_of_an_image_as_one():
    loss = paired_loss([0.5, 1.0, 0.0, 1.0], [0.5, 0.5, 0.0, 1.0])
    assert loss.value == pytest.approx(0.125)
    fewer = paired_loss([1, 1, 1, 0] * 5, [1, 0, 1, 0] * 5, independent=4)
    more = paired_loss([1, 1, 1, 0] * 5, [1, 0, 1, 0] * 5)
    assert fewer.low < more.low and fewer.high > more.high and fewer.samples == more.samples == 20


def test_the_mean_of_sets_has_the_interval_of_a_sum_of_independent_ones():
    one, other = PairedLoss(0.1, 0.0, 0.3, 10), PairedLoss(0.3, -0.1, 0.4, 30)
    found = mean_loss([one, other])
    assert found == pytest.approx((0.2, 0.2 - math.hypot(0.1, 0.4) / 2, 0.2 + math.hypot(0.2, 0.1) / 2, 40))
    assert mean_loss([one]) == pytest.approx(one)
