"""``DIR/model`` where it is no link, points to nothing, or cannot be one."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from saved import saved_tiny

from avalanche_vlm.artifacts import current_version, load, point_to, version_names
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.studies.living import roll_back
from avalanche_vlm.studies.living.updating import update


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = saved_tiny(tmp_path_factory.mktemp("made"))
    model = load(home)
    with torch.no_grad():
        model.clip.visual.proj *= 1.5
    model.save(home)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "a copy ü", symlinks=True))


def test_a_copy_that_followed_the_link_goes_on(home):
    (home / "model").unlink()
    shutil.copytree(home / "versions" / "v2", home / "model")
    assert current_version(home) == "v2"
    assert roll_back(home, "v1") == "v2"
    assert os.readlink(home / "model") == "versions/v1" and [p for p in home.iterdir() if p.name[0] == "."] == []


def test_a_folder_that_is_no_version_is_not_replaced(home):
    (home / "model").unlink()
    (home / "model").mkdir()
    (home / "model" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not a link to a version and not a copy of one either"):
        point_to(home, "v1")
    assert (home / "model" / "mine.txt").read_text() == "mine"


def test_without_links_the_model_is_a_copy(home, monkeypatch):
    def none(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", none)
    for version in ("v1", "v2", "v1"):
        point_to(home, version)
        assert current_version(home) == version and not (home / "model").is_symlink()
        load(home)
    monkeypatch.setattr(os, "link", none)
    point_to(home, "v2")
    assert current_version(home) == "v2" and [p for p in home.iterdir() if p.name[0] == "."] == []
    assert load(home).save(home).name == "v3" and current_version(home) == "v3"


def test_a_link_to_nothing_says_what_helps(home):
    shutil.rmtree(home / "versions" / "v2")
    sentence = "model points to v2, which is not there whole: rollback makes one of v1 the model"
    with pytest.raises(InputError, match=sentence):
        load(home)
    with pytest.raises(InputError, match=sentence):
        update(home, create_vlm)  # before anything is asked of the month
    assert roll_back(home, "v1") == "v2" and load(home).name == "tiny"


def test_a_version_without_one_of_its_files_does_not_become_the_model(home):
    lost = next(p for p in sorted((home / "versions" / "v1").glob("*.safetensors")))
    lost.unlink()
    with pytest.raises(InputError, match=f"{lost.name} is missing"):
        roll_back(home, "v1")
    assert current_version(home) == "v2"


def test_a_base_in_a_saved_model_is_the_version_and_not_the_link(home, tmp_path):
    model = create_vlm(f"local-dir:{home / 'model'}")
    assert model.origin.name.endswith("versions/v2")
    model.save(tmp_path / "child")
    point_to(home, "v1")
    assert torch.equal(load(tmp_path / "child").clip.visual.proj, model.clip.visual.proj)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"max_forget": float("nan")}, "max_forget is a number of points"),
        ({"max_zero_shot_loss": -1}, "max_zero_shot_loss is a number of points"),
        ({"keep": -1}, "test samples that are kept"),
        ({}, "what is new is a benchmark, or a function that makes one, not a str"),
    ],
)
def test_what_no_update_can_be_asked_is_refused_before_training(home, given, sentence):
    with pytest.raises(InputError, match=sentence):
        update(home, "june", **given)
    assert version_names(home) == ["v1", "v2"]
