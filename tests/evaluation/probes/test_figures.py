"""Alignment, uniformity, calibration and conflict against loops and in cases with a known answer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.alignment import paired_cosine
from avalanche_vlm.evaluation.probes.calibration import expected_calibration_error
from avalanche_vlm.evaluation.probes.conflict import gradient_cosines, negative_share, weighted_update
from avalanche_vlm.evaluation.probes.layers import real_tokens
from avalanche_vlm.evaluation.probes.sphere import alignment, uniformity
from avalanche_vlm.evaluation.retrieval import first_hits, retrieval_metrics
from avalanche_vlm.losses.fisher import sketched_squares, squared_gradients

quick = settings(max_examples=40, deadline=None, derandomize=True)


def unit(x: list[float]) -> list[float]:
    return [v / math.hypot(*x) for v in x]


def test_alignment_and_uniformity_are_what_loops_give():
    images, texts = torch.randn(9, 4), torch.randn(9, 4)
    x, y = [unit(row) for row in images.tolist()], [unit(row) for row in texts.tolist()]
    assert alignment(images, texts) == pytest.approx(sum(math.dist(a, b) ** 2 for a, b in zip(x, y, strict=True)) / 9)
    assert alignment(images, texts) == pytest.approx(2 - 2 * paired_cosine(images, texts))
    assert alignment(images, texts, alpha=1) == pytest.approx(
        sum(math.dist(a, b) for a, b in zip(x, y, strict=True)) / 9
    )
    kernel = [math.exp(-2 * math.dist(a, b) ** 2) for i, a in enumerate(x) for b in x[:i]]
    assert uniformity(images) == pytest.approx(math.log(sum(kernel) / len(kernel)))
    assert uniformity(torch.ones(5, 3)) == 0
    assert uniformity(torch.tensor([[1.0], [-1.0]])) == pytest.approx(-8)


def test_spread_that_cannot_be_measured_is_named():
    with pytest.raises(InputError, match="two or more"):
        uniformity(torch.ones(1, 3))
    with pytest.raises(InputError, match="pairs"):
        alignment(torch.ones(2, 3), torch.ones(3, 3))


def by_bins(confidence: list[float], right: list[bool], bins: int) -> float:
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            total += len(inside) / len(right) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))
    return total


@quick
@given(st.lists(st.tuples(st.integers(0, 64), st.booleans()), min_size=1, max_size=40), st.sampled_from([1, 4, 16]))
def test_calibration_error_is_what_bins_in_a_loop_give(answers, bins):
    # Sixty-fourths hit the bins' borders exactly.
    confidence, right = [c / 64 for c, _ in answers], [r for _, r in answers]
    found = expected_calibration_error(torch.tensor(confidence), torch.tensor(right), bins)
    assert found == pytest.approx(by_bins(confidence, right, bins), abs=1e-12)
    assert 0 <= found <= 1


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated():
    confidence = torch.rand(200_000)
    right = torch.rand(200_000) < confidence
    assert expected_calibration_error(confidence, right) < 0.01
    assert expected_calibration_error(confidence.clamp_min(0.9), torch.zeros(200_000, dtype=torch.bool)) > 0.9
    with pytest.raises(InputError, match="probabilities"):
        expected_calibration_error(torch.tensor([2.0]), torch.tensor([True]))
    with pytest.raises(InputError, match="as many"):
        expected_calibration_error(torch.ones(2), torch.tensor([True]))


@quick
@given(st.floats(-3.1, 3.1))
def test_two_quadratic_tasks_conflict_by_the_angle_between_their_optima(angle):
    """Where the loss is the squared distance to an optimum, the gradient points away from it."""
    weights = {"a": torch.zeros(2, dtype=torch.float64, requires_grad=True)}
    optima = torch.tensor([[1.0, 0.0], [2 * math.cos(angle), 2 * math.sin(angle)]], dtype=torch.float64)
    gradients = [
        {"a": torch.autograd.grad((weights["a"] - optimum).square().sum(), weights["a"])[0]} for optimum in optima
    ]
    assert gradient_cosines(*gradients, {"block": ["a"]})["block"] == pytest.approx(math.cos(angle), abs=1e-9)


def test_a_block_without_a_gradient_has_no_cosine():
    first = {"a": torch.ones(2), "b": torch.zeros(3), "c": None}
    second = {"a": -torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)}
    cosines = gradient_cosines(first, second, {"a": ["a"], "b": ["b"], "c": ["c"], "d": ["e"]})
    assert cosines["a"] == pytest.approx(-1) and all(math.isnan(cosines[block]) for block in "bcd")
    assert negative_share(cosines.values()) == 1 and math.isnan(negative_share([float("nan")]))


def test_weighted_update_is_what_loops_give():
    names = ("a", "b")
    before, after, weights = ({n: torch.randn(3, 2) for n in names} for _ in range(3))
    expected = sum(
        f * (y - x) ** 2
        for n in names
        for f, x, y in zip(*(side[n].flatten().tolist() for side in (weights, before, after)), strict=True)
    )
    assert weighted_update(before, after, weights, {"all": names})["all"] == pytest.approx(expected, rel=1e-6)
    changed = {**after, "b": torch.zeros(5)}
    assert weighted_update(before, changed, weights, {"b": ["b"], "both": names}) == pytest.approx(
        {"b": math.nan, "both": weighted_update(before, after, weights, {"a": ["a"]})["a"]}, nan_ok=True
    )


def test_sketched_squares_are_squared_gradients_in_expectation():
    x = torch.randn(6, 4, dtype=torch.float64)
    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    unused = torch.zeros(2, requires_grad=True)
    weights = {"w": w, "unused": unused}
    exact = squared_gradients((x @ w).square(), weights)
    found = sketched_squares((x @ w).square(), weights, draws=4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found["w"], exact["w"], rtol=0.08, atol=0)
    assert found["unused"].tolist() == [0, 0]
    with pytest.raises(ValueError, match="some samples"):
        sketched_squares(torch.zeros(0), weights)


def test_hits_by_query_are_those_of_the_mean():
    images, texts, ids = torch.randn(40, 3), torch.randn(40, 3), torch.randint(0, 12, (40,))
    scores = retrieval_metrics(images, texts, ids, ids, ks=(1,))
    hits = first_hits(images, texts, ids, chunk=7)
    assert hits.shape == (2, 40) and hits.dtype == torch.float64
    assert hits.double().mean(1).tolist() == pytest.approx(
        [scores["image_to_text_hit@1"], scores["text_to_image_hit@1"]]
    )


def test_a_text_ends_where_the_filling_starts():
    tokens = torch.tensor([[5, 6, 9, 0, 0], [5, 9, 9, 9, 9], [5, 6, 7, 8, 9], [1, 1, 1, 1, 1]])
    assert real_tokens(tokens).sum(1).tolist() == [4, 2, 5, 1]
