"""Quadratic penalties."""

from __future__ import annotations

import torch

from avalanche_vlm.losses.penalty import l2_to_anchor


def test_l2_is_the_sum_of_squares_and_pulls_back():
    weights = {"a": torch.randn(3, 2, dtype=torch.float64, requires_grad=True), "b": torch.ones(2, dtype=torch.float64)}
    anchor = {"a": torch.randn(3, 2, dtype=torch.float64)}
    loss = l2_to_anchor(weights, anchor)
    expected = sum((w - a) ** 2 for w, a in zip(weights["a"].flatten(), anchor["a"].flatten(), strict=True))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(weights["a"].grad, 2 * (weights["a"] - anchor["a"]).detach())
