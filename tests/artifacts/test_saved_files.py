"""Files of a saved model that are missing, cut short, changed or of another kind: one sentence, and nothing is run."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mini import mini
from quick import slow_but_for_some

from avalanche_vlm.artifacts import current_version, load, open_saved, point_to, save_model, version_names
from avalanche_vlm.artifacts.layout import version_folder
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.training import recipes
from avalanche_vlm.training.plugins.base import VLMPlugin

SPACE = LabelSpace.from_names(["star", "heart", "ring"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of two modules, its base and its training."""
    folder = tmp_path_factory.mktemp("saved")
    save_model(folder, lora(create_vlm("tiny")), recipe="lora", options={"rank": 2}, plugins=[], embed_base=True)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "copy", symlinks=True))


def lora(model: VLM) -> VLM:
    """A model with a module of LoRA that changes what it says."""
    model.set_label_space(SPACE)
    (plugin,) = recipes.build("lora", model=model, rank=2)
    pool = model.routed.pool
    pool.add_next()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in pool.parameters("task_0"):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    assert plugin is not None
    return model.eval()


def refusal(path: Path, **given: Any) -> str:
    """The sentence with which a folder is refused."""
    with pytest.raises(InputError) as told:
        load(path, **given)
    assert "\n" not in str(told.value)
    return str(told.value)


def rewrite(folder: Path, **changes: Any) -> None:
    """Change ``model.json`` as someone would who knows how its digest is made."""
    path = folder / "model" / "model.json"
    content = {**json.loads(path.read_text()), **changes}
    content.pop("sha256")
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content))


def test_a_saved_model_is_found_by_its_folder_its_link_and_its_version(folder):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = lora(create_vlm("tiny"))(images)
        for place in (folder, folder / "model", folder / "versions" / "v1", str(folder)):
            assert torch.equal(load(place)(images), wanted)
    assert os.readlink(folder / "model") == "versions/v1"
    assert version_folder(folder) == (folder / "versions" / "v1").resolve()


FILES = (
    "model.json",
    "model.safetensors",
    "training.json",
    "base/open_clip_config.json",
    "base/open_clip_model.safetensors",
)


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "pickle", "empty"])
@pytest.mark.parametrize("name", slow_but_for_some(FILES, FILES[1:2]))
def test_a_damaged_file_is_named_and_nothing_in_it_is_run(folder, tmp_path, name, damage):
    path, trap = folder / "versions" / "v1" / name, tmp_path / "trap"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Trap(str(trap))))
    else:
        middle = len(content) // 2
        spoilt = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:middle], "changed": spoilt, "empty": b""}[damage])
    if name == "training.json":
        found = open_saved(folder)
        with pytest.raises(InputError) as told:
            found.training(found.base())
        sentence = str(told.value)
        load(folder)  # what does not need the file does without it
    else:
        sentence = refusal(folder)
    assert name.rpartition("/")[2] in sentence or "no saved model" in sentence
    assert not trap.exists()


class Trap:
    """What runs when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_trap_springs_where_pickles_are_loaded(tmp_path):
    pickle.loads(pickle.dumps(Trap(str(tmp_path / "trap"))))
    assert (tmp_path / "trap").exists()


def test_a_pickle_whose_digest_was_written_into_the_description_is_not_run(folder, tmp_path):
    path = folder / "versions" / "v1" / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap(str(tmp_path / "trap"))))
    files = json.loads((folder / "model" / "model.json").read_text())["files"]
    content = path.read_bytes()
    told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(folder, files={**files, "model.safetensors": told})
    assert "model.safetensors" in refusal(folder)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 2}, r"model\.json has format 2; this version reads format 1"),
        ({"format": "x"}, "has format 'x'"),
        ({"built": 3}, "model.json is damaged: built"),
        ({"state": {"_extra_state": 3}}, "gives other tokens than when"),
        (
            {"state": {"_extra_state": {"label_space": {"class_names": 3}}}},
            r"label space in \S+model\.json is damaged: class_names:",
        ),
        ({"state": {"_extra_state": {"label_space": SPACE.as_json()}}}, "does not fit its model"),
        ({"absent": ["clip.logit_scale"]}, "does not fit its model"),
        ({"trains": {"trains": ["x"], "frozen": []}}, "does not fit its model"),
        ({"built": [{"recipe": "their-own"}]}, "needs the recipe 'their-own', which is not there"),
        ({"built": [{"recipe": "os.system"}]}, "needs the recipe 'os.system', which is not there"),
        ({"built": [{"recipe": "lora", "options": {"rank": "x"}}]}, "recipe lora: rank is"),
        ({"built": [{"recipe": "lora", "options": {"width": 2}}]}, "recipe lora has no option 'width'"),
        ({"built": [{"recipe": "lora", "resources": ["memory"]}]}, "names a resource that recipes do not take"),
        (
            {"built": [{"recipe": "replay", "options": {"folder": "/etc"}}]},
            "sets replay's option folder to a path, '/etc': a saved model names none",
        ),
        (
            {"built": [{"recipe": "ranpac", "options": {"cache": "there"}}]},
            "sets ranpac's option cache to a path, 'there': a saved model names none",
        ),
        ({"files": {}}, r"does not know \S+, which the model needs"),
        ({"more": 1}, "model.json is damaged: it has more, which does not belong there"),
    ],
)
def test_a_description_that_asks_for_something_else_is_refused(folder, changes, sentence):
    rewrite(folder, **changes)
    with pytest.raises(InputError, match=sentence) as told:
        load(folder)
    assert "\n" not in str(told.value)


def test_a_description_that_was_edited_is_told_by_its_digest(folder):
    path = folder / "model" / "model.json"
    path.write_text(path.read_text().replace('"rank": 2', '"rank": 3'))
    assert "model.json is truncated or was changed" in refusal(folder)


@pytest.mark.parametrize("content", ["[]", "3", "null", '{"a": 1}', "[" * 100_000, '{"format": 1}'])
def test_what_is_no_description_is_told_apart(folder, content):
    (folder / "model" / "model.json").write_text(content)
    assert "model.json" in refusal(folder)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path, folder):
    assert f"there is no saved model at {tmp_path / 'none'}: nothing is there" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "it has no model.json" in refusal(tmp_path / "empty")
    (folder / "model").unlink()
    assert "has no model, which says which of v1 is the model" in refusal(folder)


def test_versions_are_counted_and_the_link_moves(folder):
    model = load(folder)
    for number in (2, 3):
        assert save_model(folder, model, recipe="lora", options={"rank": 2}).name == f"v{number}"
    assert version_names(folder) == ["v1", "v2", "v3"] and current_version(folder) == "v3"
    point_to(folder, "v1")
    assert current_version(folder) == "v1" and os.readlink(folder / "model") == "versions/v1"
    with pytest.raises(InputError, match=r"has no version v4; it has v1, v2, v3"):
        point_to(folder, "v4")
    assert current_version(folder) == "v1"
    assert current_version(folder / "versions") is None and version_names(folder / "model") == []
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_the_model_is_not_moved_while_another_one_moves_it(folder, monkeypatch):
    from avalanche_vlm.artifacts import layout

    model = load(folder)
    monkeypatch.setattr(layout, "_PATIENCE", 0.0)
    with layout.pointing(folder), pytest.raises(InputError, match=r"versions is in use by process .*: wait until it"):
        save_model(folder, model, recipe="lora", options={"rank": 2})
    assert current_version(folder) == "v1" and version_names(folder) == ["v1", "v2"]  # which lies beside it
    with layout.pointing(folder):
        save_model(folder, model, recipe="lora", options={"rank": 2}, current=False)
    assert current_version(folder) == "v1"


def test_a_version_that_cannot_be_written_leaves_the_one_that_is_there(folder, monkeypatch):
    from avalanche_vlm.artifacts import saving

    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model = load(folder)
    monkeypatch.setattr(saving, "write_tensors", full)
    for version in ("v1", None):
        with pytest.raises(InputError, match="No space left on device"):
            save_model(folder, model, recipe="lora", options={"rank": 2}, version=version)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert current_version(folder) == "v1"
    monkeypatch.undo()
    save_model(folder, model, recipe="lora", options={"rank": 2}, version="v1")
    assert version_names(folder) == ["v1"] and load(folder).label_space == SPACE


def test_a_plugin_that_does_not_say_what_it_keeps_is_saved_to_predict_alone(tmp_path):
    class Silent(VLMPlugin):
        pass

    with pytest.warns(match="saved without the state of its training, for nobody knows what Silent keeps"):
        save_model(tmp_path, create_vlm("tiny", "random"), plugins=[Silent()])
    found = open_saved(tmp_path)
    assert found.description.raw_data is None
    with pytest.raises(InputError, match="without the state of its training"):
        found.training(found.base())


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path):
    model = lora(create_vlm("tiny", "random"))
    for how in ({}, {"recipe": "fine-tune"}, {"recipe": "ranpac"}):
        with pytest.raises(InputError, match=r"it has other parts than .* builds") as told:
            save_model(tmp_path, model, **how)
        assert "\n" not in str(told.value)
    assert version_names(tmp_path) == [] and list(tmp_path.rglob("*")) == [tmp_path / "versions"]


def test_an_option_that_json_does_not_have_is_named(tmp_path):
    @recipes.recipe("odd", family="none", summary="a function as an option")
    def odd(model: VLM, *, scale: Any = None) -> list:
        return []

    try:
        with pytest.raises(InputError, match="recipe odd: scale is a function, which no saved model can hold"):
            save_model(tmp_path, mini(), recipe="odd", options={"scale": lora})
        save_model(tmp_path, mini(), recipe="odd", options={"scale": 3})
    finally:
        recipes.forget("odd")


def test_folders_of_the_machine_are_no_part_of_a_saved_model(tmp_path):
    model = mini().set_label_space(SPACE)
    kept = tmp_path / "kept"
    plugins = recipes.build("replay", model=model, folder=str(kept), max_bytes=10_000)
    save_model(tmp_path, model, recipe="replay", options={"folder": str(kept), "max_bytes": 10_000}, plugins=plugins)
    (built,) = open_saved(tmp_path).description.built
    assert built.options == {"max_bytes": 10_000}
    assert str(kept) not in (tmp_path / "model" / "model.json").read_text()
    load(tmp_path, base=mini())
