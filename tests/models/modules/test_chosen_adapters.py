"""Adapters of which every sample has others, against the sum over an adapter's own samples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from avalanche_vlm.models.modules.adapter import Adapter
from avalanche_vlm.models.modules.chosen_adapters import chosen_adapters, run_together
from avalanche_vlm.models.modules.experts import ExpertChoice, mixture

B, L, D, E, K = 6, 5, 8, 4, 2


def adapters(**settings):
    torch.manual_seed(1)
    made = [Adapter(D, 3, **settings) for _ in range(E)]
    for parameter in nn.ModuleList(made).parameters():
        nn.init.normal_(parameter)
    return made


def answers(how, autocast=False):
    """The sum, and its gradients by the tokens, the weights and each adapter's parameters."""
    made = adapters()
    torch.manual_seed(2)
    x, weights = torch.randn(B, L, D, requires_grad=True), torch.rand(B, K, requires_grad=True)
    choice = torch.stack([torch.randperm(E - 1)[:K] for _ in range(B)])  # nobody chooses the last one
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = how(x, choice, weights, made)
    (found * torch.randn(B, L, D)).sum().backward()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in nn.ModuleList(made).parameters()]
    return [found.detach(), x.grad, weights.grad, *grads]


def one_by_one(x, choice, weights, made):
    return mixture(x, ExpertChoice(choice, weights, None), made, torch.zeros(B, L, D))


def at_once(x, choice, weights, made):
    return chosen_adapters(x, choice, weights, made, torch.zeros(B, L, D))


def test_at_once_is_what_one_by_one_is():
    for one, other in zip(answers(one_by_one), answers(at_once), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_at_once_is_what_one_by_one_is_under_autocast():
    one, other = answers(one_by_one, autocast=True)[0], answers(at_once, autocast=True)[0]
    assert one.dtype == other.dtype
    torch.testing.assert_close(one, other, rtol=0.03, atol=0.03)


def test_what_is_dropped_is_drawn_for_each_sample():
    made = adapters(dropout=0.5)
    x, choice = torch.ones(2, L, D), torch.zeros(2, 1, dtype=torch.long)
    found = chosen_adapters(x, choice, torch.ones(2, 1), made, x)
    assert not torch.equal(found[0], found[1])
    for adapter in made:
        adapter.eval()
    found = chosen_adapters(x, choice, torch.ones(2, 1), made, x)
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("change", "together"),
    [
        (lambda made: None, True),
        (lambda made: made[0].eval(), False),
        (lambda made: made.append(Adapter(D, 4)), False),
        (lambda made: made.append(Adapter(D, 3, norm=True)), False),
        (lambda made: made.append(Adapter(D, 3, learned_scale=True)), False),
        (lambda made: made.append(nn.Linear(D, D)), False),
    ],
)
def test_only_adapters_of_one_kind_run_together(change, together):
    made = adapters()
    change(made)
    assert run_together(made) is together
