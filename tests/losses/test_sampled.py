"""Some classes stand for others: what the sampled softmax estimates, against the exact one over all draws."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.losses.sampled import sampled_negatives

Y = torch.tensor([1, 4, 1])


def every_draw(monkeypatch, competing: torch.Tensor, n: int):
    """What is kept and added for each possible draw of n of the others, all alike probable."""
    others = int((competing if competing.ndim == 1 else competing.any(0)).sum()) - 2
    for chosen in combinations(range(others), n):
        rest = [i for i in range(others) if i not in chosen]
        monkeypatch.setattr(torch, "randperm", lambda m, order=(*chosen, *rest): torch.tensor(order))
        yield sampled_negatives(competing, Y, n)


def loss_of(logits: torch.Tensor, competing: torch.Tensor, kept: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((logits + added).masked_fill(~(competing & kept), -1e4), Y)


@pytest.mark.parametrize("by_row", [False, True])
def test_the_sum_of_exponentials_is_unbiased_and_the_loss_too_low(monkeypatch, by_row):
    logits = 2 * torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    competing = torch.ones(8, dtype=torch.bool)
    competing[6] = False
    if by_row:  # samples of two tasks, each among its own classes
        competing = torch.zeros(3, 8, dtype=torch.bool)
        competing[0::2, :4] = True
        competing[1, 4:] = True
    exact = logits.exp().masked_fill(~competing, 0).sum(1)
    exact_loss = loss_of(logits, competing, torch.ones(8, dtype=torch.bool), torch.zeros(8))
    gaps = []
    for n in (1, 3):
        draws = list(every_draw(monkeypatch, competing, n))
        sums = [(logits + added).exp().masked_fill(~(competing & kept), 0).sum(1) for kept, added in draws]
        torch.testing.assert_close(torch.stack(sums).mean(0), exact, rtol=1e-6, atol=0)
        losses = torch.stack([loss_of(logits, competing, *draw) for draw in draws])
        gaps.append(float(exact_loss - losses.mean()))
    assert gaps[0] > gaps[1] > 0.01  # Jensen's, and less of it with more classes


def test_as_many_as_there_are_is_exact_and_draws_nothing():
    competing = torch.tensor([True, True, False, True, True])
    before = torch.random.get_rng_state()
    for n in (2, 50):
        kept, added = sampled_negatives(competing, Y, n)
        assert torch.equal(kept, competing) and not added.any()
    assert torch.equal(before, torch.random.get_rng_state())
    kept, added = sampled_negatives(competing, Y, 1)
    assert kept[[1, 4]].all() and int(kept.sum()) == 3 and not kept[2]
    assert not torch.equal(before, torch.random.get_rng_state())


def test_a_class_of_the_batch_that_does_not_compete_does_not_come_in_by_being_drawn_for():
    competing = torch.tensor([True, True, True, True, False])  # and the batch has class 4
    for n in (1, 2, 3, 50):
        kept, added = sampled_negatives(competing, Y, n)
        assert kept[1] and not kept[4] and not added[4] and int(kept.sum()) == 1 + min(n, 3)


def test_the_gradient_nears_the_exact_one(monkeypatch):
    logits = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    competing = torch.ones(8, dtype=torch.bool)
    (exact,) = torch.autograd.grad(F.cross_entropy(logits, Y), logits)
    apart = []
    for n in (1, 3, 5):
        losses = [loss_of(logits, competing, *draw) for draw in every_draw(monkeypatch, competing, n)]
        (mean,) = torch.autograd.grad(torch.stack(losses).mean(), logits)
        apart.append(float((mean - exact).norm() / exact.norm()))
    assert 0.5 > apart[0] > apart[1] > apart[2] > 0
