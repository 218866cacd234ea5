"""Places in a model that one method at a time may take, and the width of its features."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.heads.nearest_mean import NearestMeanHead
from avalanche_vlm.models.modules.feature_path import FeaturePath


@pytest.mark.parametrize("first", ["routed", "image_path"])
@pytest.mark.parametrize("second", ["routed", "image_path"])
def test_one_image_path_and_both_owners_are_named(random_model, first, second):
    taken = FeaturePath()
    random_model.install(first, taken, "LoRA per task")
    with pytest.raises(InputError, match="image path is taken by LoRA per task, and query prompts needs it"):
        random_model.install(second, FeaturePath(), "query prompts")
    assert getattr(random_model, first) is taken
    assert first == second or getattr(random_model, second) is None


@pytest.mark.parametrize("slot", ["text_path", "class_head", "auxiliary.projector"])
def test_a_slot_that_is_taken(random_model, slot):
    random_model.install(slot, nn.Linear(2, 2), "one")
    with pytest.raises(InputError, match="taken by one, and one needs it"):
        random_model.install(slot, nn.Linear(2, 2), "one")


def test_a_head_and_an_image_path_of_two_methods_never_meet(random_model):
    random_model.install("class_head", NearestMeanHead(), "iCaRL's nearest mean")
    with pytest.raises(InputError, match=r"class head is taken by iCaRL's nearest mean .* but LoRA per task changes"):
        random_model.install("routed", FeaturePath(), "LoRA per task")
    assert random_model.routed is None
    random_model.uninstall("class_head")
    random_model.install("routed", FeaturePath(), "LoRA per task")
    with pytest.raises(InputError, match="taken by LoRA per task, and the class head of iCaRL's nearest mean needs"):
        random_model.install("class_head", NearestMeanHead(), "iCaRL's nearest mean")
    assert random_model.class_head is None


@pytest.mark.parametrize("slots", [("class_head", "image_path"), ("image_path", "class_head")])
def test_one_method_may_have_a_head_with_its_own_image_path(random_model, slots):
    for slot in slots:
        random_model.install(slot, FeaturePath(), "LADA")
    assert all(getattr(random_model, slot) is not None for slot in slots)


def test_a_path_that_is_to_stay_plain_is_refused_to_others_but_not_to_heads(random_model):
    random_model.install("image_path", None, "latent replay")
    random_model.install("class_head", NearestMeanHead(), "iCaRL's nearest mean")
    with pytest.raises(InputError, match="image path is taken by latent replay, and LoRA per task needs it"):
        random_model.install("routed", FeaturePath(), "LoRA per task")


def test_what_is_taken_out_is_given_back_and_the_slot_is_free(random_model):
    for slot in ("image_path", "auxiliary.projector"):
        part = FeaturePath()
        random_model.install(slot, part, "one")
        assert random_model.uninstall(slot) is part
        random_model.install(slot, FeaturePath(), "another")
    assert random_model.uninstall("text_path") is None


def test_a_part_gets_the_models_mode(random_model):
    random_model.eval().install("image_path", FeaturePath(), "one")
    assert not random_model.image_path.training
    random_model.train().install("auxiliary.projector", nn.Linear(2, 2), "one")
    assert random_model.auxiliary["projector"].training


def test_an_unknown_slot(random_model):
    for slot in ("head", "auxiliary."):
        with pytest.raises(InputError, match=f"not '{slot}'"):
            random_model.install(slot, FeaturePath(), "one")


def test_a_copy_knows_its_owners_and_forgets_none_of_the_originals(random_model):
    random_model.install("image_path", FeaturePath(), "one")
    twin = copy.deepcopy(random_model)
    twin.uninstall("image_path")
    twin.install("routed", FeaturePath(), "two")
    with pytest.raises(InputError, match="taken by one"):
        random_model.install("routed", FeaturePath(), "two")


def test_the_width_is_told_or_measured(random_model):
    size = random_model.transforms.eval.size
    measured = random_model.eval().encode_image(torch.zeros(1, 3, size, size)).shape[1]
    assert random_model.width == measured
    twin = copy.deepcopy(random_model)
    twin._width = None
    del twin.clip.visual.output_dim
    assert twin.width == measured


def everything_in(model) -> tuple:
    return model.routed, model.image_path, model.text_path, model.class_head, list(model.auxiliary), model.slots.owners


@pytest.mark.parametrize(
    ("slot", "part"),
    [
        *((slot, 3) for slot in ("routed", "image_path", "text_path", "class_head", "auxiliary.x")),
        *((slot, nn.Identity()) for slot in (None, 3, "", "head", "auxiliary.", "auxiliary.a.b", "auxiliary.train")),
    ],
)
def test_what_does_not_go_into_a_slot_changes_nothing(random_model, slot, part):
    before = copy.deepcopy(everything_in(random_model))
    with pytest.raises(InputError):
        random_model.install(slot, part, "one")
    assert everything_in(random_model) == before


def test_a_place_is_freed_through_the_slot_that_has_it(random_model):
    path = FeaturePath()
    random_model.install("image_path", path, "one")
    assert random_model.uninstall("routed") is None
    with pytest.raises(InputError, match="image path is taken by one"):
        random_model.install("image_path", FeaturePath(), "two")
    assert random_model.uninstall("image_path") is path
    random_model.install("image_path", FeaturePath(), "two")
