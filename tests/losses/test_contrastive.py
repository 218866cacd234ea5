"""Contrastive losses against loops written from the definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.losses.contrastive import matched_contrastive, multi_positive_contrastive, sigmoid_contrastive


def logits_of(n: int, m: int | None = None, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, m or n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(logits: torch.Tensor, matches) -> float:
    """Mean over both directions of the cross-entropy against uniform targets, with loops."""
    total = 0.0
    for matrix, allowed in ((logits.tolist(), matches.tolist()), (logits.T.tolist(), matches.T.tolist())):
        losses = []
        for row, positive in zip(matrix, allowed, strict=True):
            norm = math.log(sum(math.exp(v) for v in row))
            losses.append(-sum(v - norm for v, p in zip(row, positive, strict=True) if p) / sum(positive))
        total += sum(losses) / len(losses) / 2
    return total


ids = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(ids, st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_multi_positive_equals_the_loop_and_ignores_the_order(y, seed):
    y = torch.tensor(y)
    logits = logits_of(len(y), seed=seed)
    loss = multi_positive_contrastive(logits, y)
    assert loss.item() == pytest.approx(by_hand(logits, y[:, None] == y[None]), abs=1e-10)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    shuffled = multi_positive_contrastive(logits[order][:, order], y[order])
    assert shuffled.item() == pytest.approx(loss.item(), abs=1e-10)


def test_distinct_captions_give_clips_loss():
    logits = logits_of(6)
    y = torch.arange(6)
    clip = (F.cross_entropy(logits, y) + F.cross_entropy(logits.T, y)) / 2
    assert multi_positive_contrastive(logits, y + 10).item() == pytest.approx(clip.item(), abs=1e-12)


def test_aligned_duplicates_cost_no_more_than_their_entropy():
    # Two pictures of each of two captions, aligned perfectly: nothing is left to learn.
    logits = torch.tensor([[0, 0, 1, 1]] * 2 + [[1, 1, 0, 0]] * 2, dtype=torch.float64).flip(0) * 100
    logits.requires_grad_()
    loss = multi_positive_contrastive(logits, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-9)
    assert logits.grad.abs().max() < 1e-9
    naive = F.cross_entropy(logits, torch.arange(4))  # duplicates as negatives pull apart what belongs together
    assert torch.autograd.grad(naive, logits)[0].abs().max() > 0.1


def test_matches_need_not_be_symmetric():
    matches = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 1], [1, 0, 1, 0]], dtype=torch.bool)
    logits = logits_of(3, 4)
    assert matched_contrastive(logits, matches).item() == pytest.approx(by_hand(logits, matches), abs=1e-10)


def test_given_matches_have_their_reduction_and_gradient():
    matches = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]], dtype=torch.bool)
    logits = logits_of(3).requires_grad_()
    each = matched_contrastive(logits, matches, reduction="none")
    assert each.shape == (3,) and each.mean().item() == pytest.approx(by_hand(logits, matches), abs=1e-10)
    assert torch.autograd.gradcheck(lambda x: matched_contrastive(x, matches), (logits,))
    # Matches of text and image change places with the logits, and only with them.
    assert matched_contrastive(logits.T, matches.T).item() == pytest.approx(each.mean().item(), abs=1e-12)
    assert abs(matched_contrastive(logits, matches.T).item() - each.mean().item()) > 1e-3


@given(ids, st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_every_pair_keeps_its_own_loss_in_another_order(y, seed):
    y = torch.tensor(y)
    logits = logits_of(len(y), seed=seed)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    for loss in (multi_positive_contrastive, sigmoid_contrastive):
        each = loss(logits, y, reduction="none")
        shuffled = loss(logits[order][:, order], y[order], reduction="none")
        torch.testing.assert_close(shuffled, each[order], atol=1e-10, rtol=0)


def test_sigmoid_equals_the_loop():
    logits, y = logits_of(5), torch.tensor([0, 1, 1, 2, 0])
    total = 0.0
    for i in range(5):
        for j in range(5):
            sign = 1 if y[i] == y[j] else -1
            total += math.log1p(math.exp(-sign * logits[i, j].item()))
    assert sigmoid_contrastive(logits, y).item() == pytest.approx(total / 5, abs=1e-10)


@pytest.mark.parametrize("loss", [multi_positive_contrastive, sigmoid_contrastive])
def test_gradients_reductions_and_shapes(loss):
    y = torch.tensor([0, 1, 1, 2])
    logits = logits_of(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, y), (logits,))
    each = loss(logits, y, reduction="none")
    assert each.shape == (4,) and each.mean().item() == pytest.approx(loss(logits, y).item(), abs=1e-12)
    with pytest.raises(ValueError, match=r"needs in-batch logits \[3, 3\]"):
        loss(logits, y[:3])
