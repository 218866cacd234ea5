"""``vlm.save``: a model is saved with what it remembers of itself, wherever it comes from."""

from __future__ import annotations

import shutil

import pytest
import torch
from mini import mini
from saved import CLASSES, saved_lora, tiny_with_classes
from trained import answers, short_stream, train

from avalanche_vlm.artifacts import load, open_saved, save_model, version_names
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.training import recipes

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(3))
SPACE = LabelSpace.from_names(CLASSES)


def said(model):
    with model.evaluating():
        return model(IMAGES)


def test_a_model_without_a_method_is_saved_as_plain_weights(tmp_path):
    model = tiny_with_classes()
    with torch.no_grad():
        model.clip.visual.proj *= 1.01
    assert model.save(tmp_path).name == "v1"
    found = open_saved(tmp_path).description
    assert found.plain and found.built == [] and (tmp_path / "model" / "open_clip_config.json").exists()
    assert torch.equal(said(load(tmp_path)), said(model))


def test_a_loaded_model_is_saved_again_elsewhere_with_recipe_and_options(tmp_path):
    first = load(saved_lora(tmp_path / "first"))
    first.save(tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    second = load(tmp_path / "second")
    (step,) = open_saved(tmp_path / "second").description.built
    assert step.recipe == "lora" and step.options["rank"] == 2
    assert torch.equal(said(first), said(second)) and [m.module for m in second.predict(IMAGES)] == [
        m.module for m in first.predict(IMAGES)
    ]
    second.save(tmp_path / "second")  # beside itself
    assert version_names(tmp_path / "second") == ["v1", "v2"]
    assert torch.equal(said(load(tmp_path / "second")), said(first))


def test_what_recipes_build_noted_is_saved(tmp_path):
    model = create_vlm("tiny", freeze=("scale", "text")).set_label_space(SPACE)
    plugins = recipes.build("wise-ft", model=model, weight=0.25)
    model.unfreeze("text")
    more = recipes.build("replay", model=model, folder=str(tmp_path / "pictures"))
    model.save(tmp_path / "home", plugins=more)
    one, two = open_saved(tmp_path / "home").description.built
    assert (one.recipe, one.options["weight"], sorted(one.frozen)) == ("wise-ft", 0.25, ["scale", "text"])
    assert two.recipe == "replay" and two.frozen == ["scale"] and "folder" not in two.options
    assert plugins and torch.equal(said(load(tmp_path / "home")), said(model))
    saved = open_saved(tmp_path / "home")
    assert saved.training(saved.base())["plugins"] == ["ExemplarReplayPlugin"]


def test_a_model_with_its_base_along_keeps_it(tmp_path):
    path = tmp_path / "weights.safetensors"
    from avalanche_vlm.storage import write_tensors

    write_tensors(path, dict(create_vlm("tiny").clip.state_dict()))
    model = create_vlm("tiny", path).set_label_space(SPACE)
    model.save(tmp_path / "first", embed_base=True)
    path.unlink()
    loaded = load(tmp_path / "first")
    loaded.save(tmp_path / "second")
    assert open_saved(tmp_path / "second").description.base.embedded
    shutil.rmtree(tmp_path / "first")
    assert torch.equal(said(load(tmp_path / "second")), said(model))
    with pytest.raises(InputError, match=r"there is no saved model at .*first"):
        loaded.save(tmp_path / "third")
    with pytest.raises(InputError, match=r"weights\.safetensors"):
        loaded.save(tmp_path / "third", embed_base=False)
    assert not (tmp_path / "third" / "model").exists()


def test_parts_that_no_recipe_has_built_are_refused(tmp_path):
    model = mini().set_label_space(SPACE)
    recipes.get("lora").compose(model)  # put together by hand, which notes nothing
    with pytest.raises(InputError, match="it has other parts than no recipe builds"):
        model.save(tmp_path, base=mini())
    odd = create_vlm("tiny")
    recipes.get("lora").compose(odd)
    with pytest.raises(InputError, match="it has other parts than no recipe builds"):
        odd.save(tmp_path)
    assert version_names(tmp_path) == []


def test_a_model_built_by_hand_is_loaded_into_its_base_and_saved_again(tmp_path):
    model = mini().set_label_space(SPACE)
    model.save(tmp_path / "first", base=mini())
    again = load(tmp_path / "first", base=mini())
    again.save(tmp_path / "second")
    assert torch.equal(said(load(tmp_path / "second", base=mini())), said(model))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["zscl", "ranpac", "coop"])
def test_what_was_trained_is_saved_without_a_word(tmp_path, recipe):
    found = train(recipe, short_stream("classes"), create_vlm)
    wanted = answers(found.model, found.benchmark)
    found.model.save(tmp_path / "first")
    load(tmp_path / "first").save(tmp_path / "second")
    for one, other in zip(wanted, answers(load(tmp_path / "second"), found.benchmark), strict=True):
        assert torch.equal(one, other)


def test_save_says_what_save_model_says(tmp_path):
    save_model(tmp_path, create_vlm("tiny"))
    with pytest.raises(InputError, match=r"a version is called v1, v2 and so on, not 'best'"):
        create_vlm("tiny").save(tmp_path, version="best")
    with pytest.raises(InputError, match=r"a version is called v1, v2 and so on, not '\.\./v1'"):
        create_vlm("tiny").save(tmp_path, version="../v1")
    assert version_names(tmp_path) == ["v1"]
