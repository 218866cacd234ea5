"""LADA's head."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import MASKED
from avalanche_vlm.models.heads.trained import LabelSpecificHead

D, C = 8, 6
LEARNED = [0, 2, 3, 5]
TASKS = ([0, 0, 0, 2, 2, 2], [3, 3, 5])
"""Owners of units: a class with fewer units than others among them."""


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.fixture
def head() -> LabelSpecificHead:
    """Two tasks learned: classes 0, 2, 3 and 5 of six."""
    head = LabelSpecificHead(3, alpha=0.7, beta=2.0, scale=10.0, bias=-1.0)
    for owners in TASKS:
        owners = torch.tensor(owners)
        head.begin(unit(len(owners), D), owners)
        head.seal(owners.unique(), unit(len(owners.unique()), D))
    return head.eval()


@torch.no_grad()
def memory_logit(head: LabelSpecificHead, feature: torch.Tensor, c: int) -> float:
    units = [u for part in head.units for u in part]
    own = [u for u, owner in zip(units, head.owners.tolist(), strict=True) if owner == c]
    near = [
        math.exp(-head.beta * (1 - sum(a * b for a, b in zip(u.tolist(), feature.tolist(), strict=True)))) for u in own
    ]
    return head.alpha * head.width / len(own) * sum(near)


def test_logits_are_those_of_a_loop(head):
    features = unit(20, D)
    zero_shot = torch.randn(20, C)
    out = head(features, zero_shot).detach()
    opened = 0
    for feature, given, row in zip(features, zero_shot, out, strict=True):
        if int(given.argmax()) not in LEARNED:
            assert torch.equal(row, given)
            continue
        opened += 1
        for c in range(C):
            expected = (
                float(10 * feature @ head.texts[c] - 1) + memory_logit(head, feature, c) if c in LEARNED else MASKED
            )
            assert float(row[c]) == pytest.approx(expected, abs=1e-4)
    assert 0 < opened < 20


def test_classes_that_were_not_learned_keep_the_zero_shot_logits(head):
    features, zero_shot = unit(9, D), torch.randn(9, C)
    zero_shot[:, LEARNED] = MASKED
    assert torch.equal(head(features, zero_shot), zero_shot)
    assert LabelSpecificHead()(features, zero_shot) is zero_shot


def test_a_learned_class_that_does_not_compete_is_no_answer(head):
    zero_shot = torch.randn(9, C)
    zero_shot[:, [2, 3, 4]] = MASKED
    zero_shot[:, 0] = 9.0
    out = head(unit(9, D), zero_shot)
    assert (out[:, [1, 2, 3, 4]] == MASKED).all() and (out[:, [0, 5]] > MASKED).all()


def test_in_training_the_classes_learned_compete_and_the_present_texts_are_those_given(head):
    head.begin(unit(2, D), torch.tensor([0, 4]))  # a class that comes again, and a new one
    head.train()
    features, given = unit(5, D), torch.randn(5, C)
    out = head(features, given).detach()
    assert (out[:, 1] == MASKED).all() and (out[:, [0, 2, 3, 4, 5]] > MASKED).all()
    for row, feature, text in zip(out, features, given, strict=True):
        assert float(row[4]) == pytest.approx(float(text[4]) + memory_logit(head, feature, 4), abs=1e-4)
        assert float(row[0]) == pytest.approx(float(text[0]) + memory_logit(head, feature, 0), abs=1e-4)
        kept = float(10 * feature @ head.texts[2] - 1)
        assert float(row[2]) == pytest.approx(kept + memory_logit(head, feature, 2), abs=1e-4)


def test_old_units_get_no_gradient_and_stay_bit_for_bit(head):
    old = [part.detach().clone() for part in head.units]
    head.begin(unit(4, D), torch.tensor([1, 1, 4, 4]))
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(head(unit(16, D), torch.randn(16, C)), torch.tensor([1, 4] * 8)).backward()
        optimizer.step()
    assert all(part.grad is None for part in list(head.units)[:2]) and head.units[2].grad.abs().max() > 0
    assert all(torch.equal(part, before) for part, before in zip(head.units, old, strict=False))


def test_a_task_that_broke_off_is_forgotten(head):
    for owner in (1, 4):
        head.begin(unit(2, D), torch.tensor([owner, owner]))
    assert len(head.units) == 3 and head.owners.tolist() == [*TASKS[0], *TASKS[1], 4, 4]


def test_it_is_saved_and_loaded_whatever_it_has_learned(head):
    other = LabelSpecificHead(3, alpha=0.7, beta=2.0, scale=10.0, bias=-1.0).eval()
    other.load_state_dict(head.state_dict())
    features, zero_shot = unit(7, D), torch.randn(7, C)
    assert torch.equal(other(features, zero_shot), head(features, zero_shot))
    assert not any(p.requires_grad for p in other.parameters())
    assert other.stored() == head.stored()
    assert head.stored().ram == 4 * 9 * D + 8 * 9 + 4 * C * D + C


def test_what_does_not_fit_is_named(head):
    with pytest.raises(InputError, match="learned class id 5, but there are only 4"):
        head(unit(1, D), torch.zeros(1, 4))
    with pytest.raises(InputError, match="memory units per class is a whole number of 1 or more, not 0"):
        LabelSpecificHead(0)
