"""Pairs that are none are found, and a model's mistakes do not pass for such."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.studies.attribution.rematching import rematch


def pairs(n: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    texts = F.normalize(torch.randn(n, 32, generator=generator), dim=1)
    return F.normalize(texts + noise * torch.randn(n, 32, generator=generator) / 32**0.5, dim=1), texts


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_shuffled_texts_go_back_to_their_images(share):
    images, texts = pairs(300, 0.5)
    order = torch.arange(300)
    moved = torch.randperm(300)[: int(share * 300)]
    order[moved] = moved.roll(1)
    found = rematch(images, texts[order], order)
    right = order[found.order] == torch.arange(300)
    assert right.float().mean() > 1 - 0.25 * share
    # What was right stays.
    untouched = torch.ones(300, dtype=torch.bool)
    untouched[moved] = False
    assert not found.wrong[untouched].any() and right[untouched].all()
    assert found.order.sort().values.tolist() == list(range(300))


@pytest.mark.parametrize("noise", [0.5, 1.5, 3.0, 100.0])
def test_a_model_that_errs_finds_next_to_no_mismatched_pairs_among_good_ones(noise):
    images, texts = pairs(400, noise)
    assert rematch(images, texts, torch.arange(400)).wrong.float().mean() <= 0.02


def test_pairs_that_are_all_shuffled_are_found_by_a_model_that_knows_them():
    images, texts = pairs(200, 0.3)
    order = torch.randperm(200).roll(1)
    found = rematch(images, texts[order], order)
    assert (order[found.order] == torch.arange(200)).float().mean() > 0.9


def test_a_repeated_text_is_not_a_mistake_for_its_other_images():
    images, texts = pairs(60, 0.3)
    classes = torch.arange(60) % 6
    images = F.normalize(texts[classes] + 0.2 * images, dim=1)
    given = classes.clone()
    given[:4] = torch.tensor([3, 2, 1, 0])  # images 0 to 3 are of classes 0 to 3
    found = rematch(images, texts[given], given)
    assert found.wrong.nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert torch.equal(given[found.order], classes)
