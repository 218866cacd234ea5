"""PROOF's head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError
from avalanche_vlm.models import MASKED
from avalanche_vlm.models.heads.trained import ProjectionFusionHead
from avalanche_vlm.models.heads.trained import projections as module
from avalanche_vlm.weights.average import snapshot

D, C = 8, 6
TASKS = ([0, 1], [2, 3])


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.fixture
def head() -> ProjectionFusionHead:
    """Two tasks of two classes learned, of six classes; no weight is what it was at first."""
    head = ProjectionFusionHead(D, contexts=2, scale=10.0)
    for classes in TASKS:
        head.begin()
        head.learn(unit(12, D), torch.tensor(classes * 6), torch.tensor(classes), unit(2, D))
        head.seal()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head.eval()


@torch.no_grad()
def test_projections_are_summed(head):
    x = unit(5, D)
    for projections, project in (
        (head.image_projections, head.project_images),
        (head.text_projections, head.project_texts),
    ):
        torch.testing.assert_close(project(x), F.normalize(projections[0](x) + projections[1](x), dim=1))


def test_a_new_task_starts_from_what_there_is(head):
    fresh, x = ProjectionFusionHead(D), unit(5, D)
    fresh.begin()
    torch.testing.assert_close(fresh.project_images(x), x)
    with torch.no_grad():
        before = head.project_images(x), head.project_texts(x)
    head.begin()
    assert len(head.image_projections) == len(head.text_projections) == len(head.contexts) == 3
    torch.testing.assert_close((head.project_images(x), head.project_texts(x)), before)
    head.project_images(x).mul(unit(5, D)).sum().backward()
    assert head.image_projections[2].weight.grad.abs().max() > 0


@torch.no_grad()
def test_three_cosines_are_summed_for_every_image_by_itself(head):
    features, zero_shot = unit(6, D), torch.randn(6, C)
    zero_shot[:, 4:] -= 10  # a class learned is the zero-shot answer
    zero_shot[3:, :2] = MASKED  # of the second task
    out = head(features, zero_shot)
    for i, feature in enumerate(features):
        classes = [0, 1, 2, 3] if i < 3 else [2, 3]
        image = head.project_images(feature[None])
        texts = head.project_texts(head.texts[classes])
        prototypes = head.project_images(F.normalize(head.prototypes.means[classes], dim=1))
        x = torch.cat([image, texts, prototypes, *head.contexts])[None]
        fusion = head.fusion
        y = F.scaled_dot_product_attention(fusion.query(x), fusion.key(x), fusion.value(x))
        y = F.normalize(fusion.norm(x + fusion.out(y))[0], dim=1)
        n = len(classes)
        expected = 10 * (texts @ image[0] + y[1 : n + 1] @ y[0] + y[n + 1 : 2 * n + 1] @ y[0])
        torch.testing.assert_close(out[i, classes], expected, atol=1e-4, rtol=1e-4)
        others = [c for c in range(C) if c not in classes]
        assert (out[i, others] == MASKED).all()


@torch.no_grad()
def test_an_answer_that_was_not_learned_stands(head):
    features, zero_shot = unit(6, D), torch.randn(6, C)
    zero_shot[::2, 4] = 9.0
    out = head(features, zero_shot)
    assert torch.equal(out[::2], zero_shot[::2]) and not torch.equal(out[1::2], zero_shot[1::2])
    zero_shot[:, :4] = MASKED
    assert torch.equal(head(features, zero_shot), zero_shot)
    assert ProjectionFusionHead(D)(features, zero_shot) is zero_shot


@torch.no_grad()
def test_nothing_depends_on_the_rest_of_the_batch(head, monkeypatch):
    features, zero_shot = unit(12, D), torch.randn(12, C)
    zero_shot[::3, :2] = MASKED
    together = head(features, zero_shot)
    for i in range(12):
        torch.testing.assert_close(head(features[i : i + 1], zero_shot[i : i + 1])[0], together[i])
    monkeypatch.setattr(module, "_NUMBERS", 1)  # image by image
    torch.testing.assert_close(head(features, zero_shot), together)


def test_old_projections_and_contexts_stay_bit_for_bit(head):
    parts = [*head.image_projections.parameters(), *head.text_projections.parameters(), *head.contexts]
    old = [part.detach().clone() for part in parts]
    fusion = head.fusion.value.weight.detach().clone()
    head.begin()
    head.learn(unit(8, D), torch.tensor([4, 5] * 4), torch.tensor([4, 5]), unit(2, D))
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, weight_decay=0.5)
    y = torch.arange(16) % 6
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(head(unit(16, D), torch.zeros(16, C)), y)
        (loss + F.cross_entropy(head.take_prototype_logits(), y)).backward()
        optimizer.step()
    assert all(torch.equal(part, before) and part.grad is None for part, before in zip(parts, old, strict=True))
    assert not torch.equal(head.fusion.value.weight, fusion)
    assert head.contexts[2].grad.abs().max() > 0 and head.text_projections[2].weight.grad.abs().max() > 0


def test_a_task_that_broke_off_leaves_nothing(head):
    head.begin()
    head.begin()
    assert len(head.image_projections) == len(head.text_projections) == len(head.contexts) == 3


def test_in_training_it_gives_fused_texts_and_fused_prototypes(head):
    features = unit(3, D)
    found = head.similarities(features, torch.arange(4))
    head.train()
    out = head(features, torch.randn(3, C))
    torch.testing.assert_close(out[:, :4], found.texts)
    prototypes = head.take_prototype_logits()
    torch.testing.assert_close(prototypes[:, :4], found.prototypes)
    assert (out[:, 4:] == MASKED).all() and (prototypes[:, 4:] == MASKED).all()
    with pytest.raises(InputError, match="no logits of prototypes"):
        head.take_prototype_logits()


def test_the_seed_decides_and_the_global_state_does_not():
    heads = []
    for seed in (0, 0, 1):
        torch.rand(1)
        heads.append(ProjectionFusionHead(D, seed=seed))
        heads[-1].begin()
    first, same, other = (snapshot(head.state_dict()) for head in heads)
    assert all(torch.equal(same[name], part) for name, part in first.items())
    assert not torch.equal(other["contexts.0"], first["contexts.0"])


@torch.no_grad()
def test_it_is_saved_and_loaded_whatever_it_has_learned(head):
    other = ProjectionFusionHead(D, contexts=2, scale=10.0).eval()
    other.load_state_dict(head.state_dict())
    features, zero_shot = unit(7, D), torch.randn(7, C)
    assert torch.equal(other(features, zero_shot), head(features, zero_shot))
    assert other.stored() == head.stored()


def test_what_does_not_fit_is_named(head):
    with pytest.raises(InputError, match="learned class id 3, but there are only 2"):
        head(unit(1, D), torch.zeros(1, 2))
    with pytest.raises(InputError, match="contexts per task is a whole number of 0 or more, not -1"):
        ProjectionFusionHead(D, contexts=-1)
