"""Programs of ``torch.export``: what they take and give, and that they give what the model gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mini import mini
from quick import one_each
from saved import CLASSES, lora_of
from trained import build, short_stream

from avalanche_vlm.artifacts import export, programs
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.heads.nearest_mean import NearestMeanHead


def shallow() -> VLM:
    """To be traced quickly."""
    return mini(image_blocks=2, text_blocks=2)


def model_with_classes() -> VLM:
    return shallow().set_label_space(LabelSpace.from_names(CLASSES)).eval()


def opened(folder: Path, name: str):
    """A program, run by torch alone."""
    return torch.export.load(str(folder / f"{name}.pt2")).module()


def index_of(folder: Path) -> dict:
    return json.loads((folder / programs.INDEX).read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs") / "out"
    model = model_with_classes()
    model.set_label_space(LabelSpace.from_names(CLASSES, visible="seen"))
    model.competing.met[0, [0, 2, 3]] = True
    return model, folder, export(model, "torch-export", folder)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_programs_give_what_the_model_gives_for_any_number_of_images(exported, n):
    model, folder, _ = exported
    images, tokens = torch.randn(n, 3, 32, 32), model.tokenize(["a red star", "two cups"] * n)[:n]
    with torch.no_grad():
        features = opened(folder, "image")(images)
        torch.testing.assert_close(features, model.encode_image(images), atol=1e-6, rtol=0)
        torch.testing.assert_close(opened(folder, "text")(tokens), model.encode_text(tokens), atol=1e-6, rtol=0)
        logits = opened(folder, "head")(features)
        torch.testing.assert_close(logits, model(images), atol=1e-4, rtol=0)
    assert (logits[:, [1, 4]] == MASKED).all() and (logits[:, [0, 2, 3]] != MASKED).all()


def test_the_index_says_what_programs_take_give_and_stand_for(exported):
    model, folder, found = exported
    index = index_of(folder)
    assert found.folder == folder and {path.name for path in folder.iterdir()} == {
        "image.pt2", "text.pt2", "head.pt2", "programs.json"
    }  # fmt: skip
    told = index["programs"]
    assert told["image"]["takes"] == {"name": "images", "shape": ["batch", 3, 32, 32], "dtype": "float32"}
    assert told["image"]["gives"] == {"name": "features", "shape": ["batch", 32], "dtype": "float32"}
    assert told["text"]["takes"] == {"name": "tokens", "shape": ["batch", 20], "dtype": "int64"}
    assert told["head"]["gives"]["shape"] == ["batch", 5] and told["head"]["gives"]["classes_that_compete"] == [0, 2, 3]
    assert all(0 <= facts["greatest_difference"] < 1e-4 for facts in told.values())
    assert index["images"]["size"] == 32 and index["images"]["mean"] == [0.5] * 3
    assert LabelSpace.from_json(index["label_space"]) == model.label_space and index["left_out"] == {}
    assert len(found.sentences) == 3 and "from the model" in found.sentences[0]


def test_a_program_holds_its_own_tower_alone(exported):
    _, folder, _ = exported
    for name, stranger in (("image", "token_embedding"), ("text", "visual")):
        state = torch.export.load(str(folder / f"{name}.pt2")).state_dict
        assert state and not any(stranger in key for key in state)


def test_the_model_stays_as_it_is(exported):
    model, _, _ = exported
    assert model.clip.visual is not None and model.clip.token_embedding is not None
    assert next(model.clip.visual.parameters()).requires_grad and not model.training


@pytest.mark.slow
def test_a_module_answers_where_it_is_named_and_the_towers_alone_otherwise(tmp_path):
    model = model_with_classes()
    lora_of(model)
    images = torch.randn(3, 3, 32, 32)
    for module in (None, "task_1"):
        found = export(model, "torch-export", tmp_path / str(module), module=module)
        with torch.no_grad(), model.routed.pool.using(module):
            expected = model.encode_image_plain(images)
        torch.testing.assert_close(opened(found.folder, "image")(images), expected, atol=1e-6, rtol=0)
        index = index_of(found.folder)
        assert index["module"] == module and "depends on the image" in index["left_out"]["routing"]
        assert any("no program for routing" in sentence for sentence in found.sentences)
    assert model.routed is not None and model.routed.pool.names == ["task_0", "task_1"]


@pytest.mark.slow
def test_a_class_head_has_no_program_and_the_reason_is_told(tmp_path):
    model = model_with_classes()
    head = NearestMeanHead()
    head.fit(torch.eye(5, 32), torch.arange(5), 5)
    model.class_head = head
    found = export(model, "torch-export", tmp_path / "out")
    assert not (found.folder / "head.pt2").exists()
    assert "NearestMeanHead, decides by the values of a sample" in index_of(found.folder)["left_out"]["head"]


@pytest.mark.slow
def test_a_model_of_pairs_has_no_head(tmp_path):
    found = export(shallow(), "torch-export", tmp_path / "out")
    assert index_of(found.folder)["left_out"] == {"head": "the model has no label space"}
    assert index_of(found.folder)["label_space"] is None


@pytest.mark.parametrize(("recipe",), one_each([(name,) for name in ("coop", "maple", "l2p")], ["maple"]))
def test_paths_that_prompts_take_are_in_the_programs(tmp_path, recipe):
    benchmark = short_stream("classes")
    made = build(recipe, benchmark, shallow)
    model = made.model.eval()
    for plugin in made.plugins:
        if hasattr(plugin, "pool") and hasattr(plugin.pool, "activate"):
            plugin.pool.activate("shared")
            for parameter in plugin.pool.parameters("shared"):
                torch.nn.init.normal_(parameter, std=0.1)
    if recipe == "l2p":
        model.image_path.pool.begin_task()
    found = export(model, "torch-export", tmp_path / "out")
    images, tokens = torch.randn(4, 3, 32, 32), model.tokenize(["a red star"] * 4)
    with torch.no_grad():
        untouched = shallow().eval()
        changed = not torch.allclose(model.encode_image(images), untouched.encode_image(images), atol=1e-3)
        assert changed or not torch.allclose(model.encode_text(tokens), untouched.encode_text(tokens), atol=1e-3)
        torch.testing.assert_close(opened(found.folder, "image")(images), model.encode_image(images), atol=1e-6, rtol=0)
        torch.testing.assert_close(opened(found.folder, "text")(tokens), model.encode_text(tokens), atol=1e-6, rtol=0)


def test_a_program_that_gives_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(programs._ImageTower, "forward", lambda self, images: self.model.encode_image(images) * 1.01)
    with pytest.raises(InputError, match=r"the program of image is up to .* from the model, more than 1e-04: nothing"):
        export(shallow(), "torch-export", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_tower_that_torch_cannot_follow_is_left_out_with_the_reason(tmp_path, monkeypatch, capfd):
    def by_values(self, images):
        return self.model.encode_image(images if images.sum() > 0 else -images)

    monkeypatch.setattr(programs._ImageTower, "forward", by_values)
    found = export(shallow(), "torch-export", tmp_path / "out")
    assert "torch.export cannot follow it (" in index_of(found.folder)["left_out"]["image"]
    assert (found.folder / "text.pt2").exists() and not (found.folder / "image.pt2").exists()
    assert "Traceback" not in capfd.readouterr().err
