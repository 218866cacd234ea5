"""The zero-shot head: what is encoded once stays at hand, here and in a process that goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from mini import mini

from avalanche_vlm.benchmarks.label_space import PHOTO, LabelSpace

SPACE = LabelSpace.from_names(["star", "heart", "ring"], PHOTO, "union")
ALL = torch.arange(3)


@pytest.fixture
def frozen():
    return mini().freeze("text").set_label_space(SPACE)


def counted(model) -> list[int]:
    """The number of texts of every pass through the text tower from now on."""
    seen: list[int] = []
    model.clip.token_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_features_that_are_handed_on_are_not_encoded_again(frozen):
    other = copy.deepcopy(frozen).set_label_space(SPACE)
    assert frozen.text_head.at_hand(frozen) is None
    wanted = frozen.prompt_features(ALL)
    passes = counted(other)
    other.text_head.take(other, *frozen.text_head.at_hand(frozen))
    assert torch.equal(other.prompt_features(ALL), wanted) and not passes
    with torch.no_grad():
        other.clip.text_projection.mul_(1.5)
    assert other.text_head.at_hand(other) is None
    other.prompt_features(ALL)
    assert passes == [3]


def test_they_are_those_of_the_precision_that_they_were_encoded_in(frozen):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frozen.prompt_features(ALL)
    precision, features = frozen.text_head.at_hand(frozen)
    assert precision == "torch.bfloat16"
    frozen.text_head.take(frozen, precision, features)
    passes = counted(frozen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(frozen.prompt_features(ALL), features) and not passes
    frozen.prompt_features(ALL)
    assert passes == [3]


def test_of_a_tower_that_trains_nothing_is_handed_on(frozen):
    frozen.prompt_features(ALL)
    frozen.unfreeze("text")
    assert frozen.text_head.at_hand(frozen) is None
