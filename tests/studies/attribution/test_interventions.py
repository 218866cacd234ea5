"""Weights that are put back leave no trace."""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.factory import from_open_clip
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.studies.attribution.interventions import Interventions
from avalanche_vlm.weights.average import snapshot


def trained(model) -> dict[str, torch.Tensor]:
    """Change every weight; the state before."""
    start = snapshot(model.clip.state_dict())
    with torch.no_grad():
        for parameter in model.clip.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return start


def test_a_block_is_put_back_alone_and_all_is_as_trained_afterwards(random_model):
    start = trained(random_model)
    after = snapshot(random_model.clip.state_dict())
    interventions = Interventions(random_model, start)
    with interventions.put_back(["image.1", "text.out"]) as model:
        now = model.clip.state_dict()
        back = {*interventions.blocks["image.1"], *interventions.blocks["text.out"]}
        for name in now:
            assert torch.equal(now[name], start[name] if name in back else after[name]), name
    for name, value in random_model.clip.state_dict().items():
        assert torch.equal(value, after[name])


def test_the_weights_come_back_when_something_fails(random_model):
    start = trained(random_model)
    after = snapshot(random_model.clip.state_dict())
    interventions = Interventions(random_model, start)
    for way in (
        lambda: interventions.put_back(["image.0"]),
        interventions.way_back,
        lambda: interventions.way_back(0.5),
    ):
        with pytest.raises(ZeroDivisionError), way():
            1 / 0  # noqa: B018
        assert all(torch.equal(v, after[k]) for k, v in random_model.clip.state_dict().items())


def test_only_what_training_changed_is_looked_at(random_model):
    start = snapshot(random_model.clip.state_dict())
    with torch.no_grad():
        random_model.clip.visual.proj += 0.1
    interventions = Interventions(random_model, start)
    assert interventions.changed == ["image.out"] and interventions.changed_towers == {"image"}
    random_model.text_path = lambda encode, tokens: encode(tokens)
    assert Interventions(random_model, start).changed_towers == {"image", "text"}


def test_half_the_way_is_the_mean_and_all_the_way_the_start(random_model):
    start = trained(random_model)
    after = snapshot(random_model.clip.state_dict())
    interventions = Interventions(random_model, start)
    with interventions.way_back(0.5) as model:
        for name, value in model.clip.state_dict().items():
            torch.testing.assert_close(value, (start[name] + after[name]) / 2)
    with interventions.way_back() as model:
        assert all(torch.equal(v, start[k]) for k, v in model.clip.state_dict().items())


def test_a_module_is_off_where_its_block_is_put_back(random_model):
    start = snapshot(random_model.clip.state_dict())
    images = torch.randn(4, 3, 32, 32)
    with random_model.evaluating():
        before = random_model.encode_image(images)
    pool = ModulePool(named("image", inject_lora(random_model.tower("image"))))
    pool.add("task")
    with torch.no_grad():
        for parameter in pool.parameters("task"):
            parameter += 0.2 * torch.randn_like(parameter)
    interventions = Interventions(random_model, start)
    with random_model.evaluating():
        adapted = random_model.encode_image(images)
        with interventions.put_back([block for block in interventions.blocks if block.startswith("image.")]) as model:
            torch.testing.assert_close(model.encode_image(images), before)
        with interventions.put_back(["image.0"]) as model:
            partly = model.encode_image(images)
        assert torch.equal(random_model.encode_image(images), adapted)
    assert not torch.allclose(partly, before) and not torch.allclose(partly, adapted)


def test_batch_norm_comes_back_with_its_layer():
    clip = CLIP(
        24, {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8, "head_width": 16},
        {"context_length": 8, "vocab_size": 20, "width": 32, "heads": 2, "layers": 2},
    )  # fmt: skip
    model = from_open_clip(clip, None, image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3, name="random")
    start = snapshot(clip.state_dict())
    mean = clip.visual.layer2[0].bn1.running_mean
    mean += 1
    with Interventions(model, start).put_back(["image.1"]):
        assert torch.equal(mean, start["visual.layer2.0.bn1.running_mean"])
    assert mean.min() > 0.5


def test_weights_of_another_model_are_refused(random_model):
    state = random_model.clip.state_dict()
    with pytest.raises(InputError, match="no name in common"):
        Interventions(random_model, {"other": torch.zeros(2)})
    name = next(iter(state))
    with pytest.raises(InputError, match="have shape"):
        Interventions(random_model, {name: torch.zeros(7, 7, 7)})
