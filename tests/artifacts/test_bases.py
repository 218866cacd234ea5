"""What a model was built on: referred to, embedded, drawn again, or given; and what is said where it is another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from mini import mini
from open_clip_small import register, small_clip
from safetensors.torch import save_file

from avalanche_vlm.artifacts import Built, load, open_saved, save_model
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.fingerprint import weights_of
from avalanche_vlm.models.modules.site import Site
from avalanche_vlm.training import recipes

SPACE = LabelSpace.from_names(["star", "heart", "ring"])


def moved(model: VLM, seed: int = 0) -> VLM:
    """A model that has learned something in its text tower alone."""
    generator = torch.Generator().manual_seed(seed)
    model.set_label_space(SPACE)
    with torch.no_grad():
        for _, parameter in model.tower_parameters("text"):
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def same(a: VLM, b: VLM) -> bool:
    """Whether two models answer the same, to the last bit."""
    size = a.transforms.eval.size
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.equal(a(images), b(images)) and a.name == b.name


def test_what_the_base_has_is_not_written_again(tmp_path):
    model = create_vlm("tiny").set_label_space(SPACE)
    recipes.build("simplecil", model=model)  # a part that open_clip does not have
    save_model(tmp_path, model, recipe="simplecil")
    found = open_saved(tmp_path).description
    assert not found.plain and found.files["model.safetensors"].bytes < 3000
    assert found.base.weights == weights_of(create_vlm("tiny"))


def test_random_weights_are_drawn_again(tmp_path):
    torch.manual_seed(5)
    model = moved(create_vlm("tiny", "random"))
    draws = torch.get_rng_state()
    save_model(tmp_path, model)
    assert torch.equal(torch.get_rng_state(), draws)
    found = open_saved(tmp_path)
    assert found.description.base.origin.seed == 5
    assert same(load(tmp_path), model) and torch.equal(torch.get_rng_state(), draws)
    # after other draws of the same seed they cannot be had again, and nothing of them is left out
    torch.manual_seed(5)
    torch.rand(1)
    other = moved(create_vlm("tiny", "random"))
    save_model(tmp_path, other)
    assert open_saved(tmp_path).description.base.origin.seed is None
    assert same(load(tmp_path), other) and not same(load(tmp_path), model)


def test_random_weights_that_come_out_otherwise_are_told(tmp_path, monkeypatch):
    torch.manual_seed(5)
    save_model(tmp_path, create_vlm("tiny", "random"))
    monkeypatch.setattr("avalanche_vlm.models.tiny.build_tiny", lambda size, precision: drawn_otherwise())
    with pytest.raises(InputError, match="are drawn otherwise by this version of torch"):
        load(tmp_path)


def drawn_otherwise():
    from avalanche_vlm.models.tiny.shipped import build_tiny

    torch.rand(1)
    return build_tiny()


@pytest.mark.slow
def test_a_checkpoint_that_is_gone_or_another_one_is_told_and_an_embedded_base_needs_none(tmp_path, monkeypatch):
    name = register(monkeypatch, tmp_path, {})
    save_file(small_clip(seed=1).state_dict(), path := tmp_path / "own.safetensors")
    monkeypatch.chdir(tmp_path)
    model = moved(create_vlm(name, "own.safetensors", freeze=("image", "scale")))
    assert model.origin.pretrained == str(path)
    save_model(tmp_path / "referred", model)
    save_model(tmp_path / "embedded", model, embed_base=True)
    monkeypatch.chdir(tmp_path.parent)
    loaded = load(tmp_path / "referred")
    assert same(loaded, model) and loaded.frozen == ("image", "scale")
    save_file(small_clip(seed=2).state_dict(), path)
    with pytest.raises(InputError, match=r"the weights of small/own.safetensors, the base of .* are others than when"):
        load(tmp_path / "referred")
    path.unlink()
    with pytest.raises(InputError, match=r"saved without its base, small \(.*own.safetensors\), which cannot be had"):
        load(tmp_path / "referred")
    loaded = load(tmp_path / "embedded")
    assert same(loaded, model) and loaded.origin == model.origin and loaded.frozen == ("image", "scale")
    told = [m.transforms.eval.describe().translate(str.maketrans("[]", "()")) for m in (loaded, model)]
    assert told[0] == told[1]  # JSON knows no tuples


@pytest.mark.slow
def test_a_folder_of_open_clips_is_a_base_as_well(tmp_path, monkeypatch):
    name = register(monkeypatch, tmp_path, {})
    torch.manual_seed(0)
    first = moved(create_vlm(name, image_size=48))
    save_model(tmp_path / "first", first)
    place = shutil.copytree(tmp_path / "first" / "model", tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    model = moved(create_vlm("local-dir:folder"), seed=1)
    assert model.origin.name == f"local-dir:{place}"
    for embedded in (False, True):
        save_model(tmp_path / "second", model, embed_base=embedded)
        assert same(load(tmp_path / "second"), model)
    shutil.rmtree(place)
    assert same(load(tmp_path / "second"), model)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16", "pure_bf16"])
def test_weights_in_half_precision_stay_what_they_are(tmp_path, precision):
    model = create_vlm("tiny", precision=precision).set_label_space(SPACE)
    for embedded in (False, True):
        save_model(tmp_path, model, embed_base=embedded)
        loaded = load(tmp_path)
        assert same(loaded, model.eval())
        assert [p.dtype for p in loaded.parameters()] == [p.dtype for p in model.parameters()]


def test_a_model_built_by_hand_is_loaded_into_one_built_likewise(tmp_path):
    model = moved(mini())
    save_model(tmp_path / "all", model)
    save_model(tmp_path / "differing", model, base=mini())
    whole, part = (open_saved(tmp_path / name).description for name in ("all", "differing"))
    assert part.files["model.safetensors"].bytes < whole.files["model.safetensors"].bytes
    for name in ("all", "differing"):
        assert same(load(tmp_path / name, base=mini()), model)
        with pytest.raises(InputError, match="a model that was built by hand, mini: make its base"):
            load(tmp_path / name)
    with pytest.raises(InputError, match=r"the weights of mini, the base of .* are others than when it was saved"):
        load(tmp_path / "differing", base=moved(mini(), seed=3))
    with pytest.raises(InputError, match="does not fit its model"):
        load(tmp_path / "all", base=create_vlm("tiny"))
    with pytest.raises(InputError, match="mini was built by hand, so that its architecture and its tokenizer"):
        save_model(tmp_path / "embedded", model, embed_base=True)
    assert not (tmp_path / "embedded").exists()


def test_a_recipe_on_another_ones_model_is_built_in_the_towers_that_it_found_free(tmp_path):
    model = create_vlm("tiny", "random")
    recipes.build("zero-shot", model=model)  # freezes everything
    model.unfreeze("image")
    frozen = model.frozen
    recipes.build("c-clip", model=model)
    places = {name for name, module in model.clip.named_modules() if isinstance(module, Site)}
    assert places and all(name.startswith("visual.") for name in places)
    save_model(tmp_path, model, recipe="c-clip", frozen=frozen, earlier=[Built(recipe="zero-shot")])
    loaded = load(tmp_path)
    assert {name for name, module in loaded.clip.named_modules() if isinstance(module, Site)} == places
    assert loaded.frozen == model.frozen


def test_a_base_is_given_for_models_of_ones_own_alone(tmp_path):
    save_model(tmp_path, create_vlm("tiny"))
    with pytest.raises(InputError, match="knows how its base is made, tiny: base is for models of your own"):
        load(tmp_path, base=create_vlm("tiny"))


def test_another_tokenizer_is_told(tmp_path):
    model = moved(mini())
    save_model(tmp_path, model)
    base = mini()
    base.tokenizer.words = base.tokenizer.words[::-1]
    base.tokenizer = type(base.tokenizer)(base.tokenizer.words, base.tokenizer.context_length)
    with pytest.raises(InputError, match="the tokenizer of mini gives other tokens than when"):
        load(tmp_path, base=base)


def test_the_folder_can_go_elsewhere(tmp_path):
    model = moved(create_vlm("tiny"))
    save_model(tmp_path / "here", model)
    there = Path(shutil.move(tmp_path / "here", tmp_path / "there"))
    assert same(load(there), model)
    copied = shutil.copytree(there / "model", tmp_path / "copied")
    assert same(load(copied), model)
