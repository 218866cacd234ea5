"""Averages of weights."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.weights.average import copy_into, interpolate, snapshot, update_running_mean


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 2, generator=generator), "b": torch.randn(2, generator=generator)}


@given(st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_the_running_mean_is_the_arithmetic_mean(n):
    states = [state(i) for i in range(n + 1)]
    mean = snapshot(states[0])
    for count, new in enumerate(states[1:], start=1):
        update_running_mean(mean, new, count)
    for name in mean:
        expected = torch.stack([s[name].double() for s in states]).mean(0)
        torch.testing.assert_close(mean[name].double(), expected, atol=1e-5, rtol=1e-5)


def test_snapshots_are_copies_and_load_writes_in_place():
    parameter = torch.nn.Parameter(torch.zeros(2))
    kept = snapshot({"p": parameter})
    with torch.no_grad():
        parameter += 1
    assert kept["p"].tolist() == [0, 0] and not kept["p"].requires_grad
    copy_into({"p": parameter, "other": torch.ones(1)}, kept)
    assert parameter.tolist() == [0, 0] and parameter.requires_grad


def test_interpolation_has_its_ends():
    start, end = state(0), state(1)
    for weight, expected in ((0.0, start), (1.0, end)):
        got = interpolate(start, end, weight)
        assert all(torch.equal(got[name], expected[name]) for name in start)
    half = interpolate(start, end, 0.5)
    torch.testing.assert_close(half["w"], (start["w"] + end["w"]) / 2)


def test_no_weights_have_no_mean_and_are_copied_nowhere():
    update_running_mean({}, state(0), 1)
    copy_into(state(0), {})
