"""An update beside others, killed at its end, or asked for what cannot be: nothing here trains."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from avalanche_vlm import cli
from avalanche_vlm.artifacts import current_version, load, open_saved, save_model, version_names
from avalanche_vlm.benchmarks import VLMBenchmark, picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import create_vlm
from avalanche_vlm.storage import Lock
from avalanche_vlm.studies.living import Update, list_versions, record_first, roll_back, update, updating
from avalanche_vlm.studies.living.growth import beginning
from avalanche_vlm.studies.living.records import read_record
from avalanche_vlm.training import recipes
from avalanche_vlm.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("narrow_tiny")

SIZES = {"n_train": 12, "n_test": 6, "n_held_out": 6, "n_reference": 6}
ALL = {"max_forget": 100, "max_zero_shot_loss": 100}


class Killed(BaseException):
    """Nothing that anybody catches."""


@pytest.fixture(scope="module")
def whole() -> VLMBenchmark:
    return picturebook.mtil_like(order=["digits", "night"], label_space="seen", **SIZES)


@pytest.fixture(scope="module")
def first(tmp_path_factory, whole) -> Path:
    """A first version that was saved as after a training."""
    folder, month = tmp_path_factory.mktemp("first"), beginning(whole, 1)
    torch.manual_seed(0)
    model = create_vlm("tiny").set_label_space(month.label_space)
    plugins = recipes.build("fine-tune", model=model)
    protocol = {"train": asdict(TrainSettings(epochs=1, batch_size=6, warmup=1))}
    save_model(folder, model, recipe="fine-tune", plugins=plugins, result={"protocol": protocol, "tasks": ["digits"]})
    record_first(folder, "v1", month, model, 6)
    return folder


@pytest.fixture
def home(first, tmp_path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "home", symlinks=True))


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The recipes that were trained, by a training that only turns a weight."""
    asked: list[str] = []

    def learn(learner, *_, **__):
        asked.append(learner.recipe.recipe)
        with torch.no_grad():
            learner.model.clip.visual.proj *= 1.01

    monkeypatch.setattr(updating, "learn", learn)
    return asked


def june(home: Path, whole: VLMBenchmark, **given) -> Update:
    return update(home, whole, experiences=[1], **{**ALL, **given})


def left(home: Path) -> list[str]:
    return [path.name for path in (home / "versions").glob(".*-training")]


def killed(*_, **__) -> None:
    raise Killed


def test_a_second_update_in_the_folder_is_refused_and_a_rollback_is_not(home, whole, trained, capsys):
    with Lock(home), pytest.raises(InputError, match=rf"home is in use by process {os.getpid()} on "):
        june(home, whole)
    with Lock(home):
        assert cli.main(["update", str(home), "--data", str(home / "june.csv"), "--quiet"]) == 2
        said = capsys.readouterr().err
        assert "home is in use by process" in said and "--out" not in said  # these commands have none
    assert trained == [] and version_names(home) == ["v1"]
    with Lock(home):
        assert roll_back(home, "v1") == "v1"
    assert june(home, whole).promoted


def test_a_version_that_nobody_judged_yet_is_a_candidate_and_the_same_update_ends_it(home, whole, trained, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(updating, "settle", killed)
        june(home, whole)
    assert version_names(home) == ["v1", "v2"] and current_version(home) == "v1" and left(home) == [".v2-training"]
    assert not read_record(home, "v2").promoted and not list_versions(home)[1]["promoted"]
    with pytest.raises(InputError, match="v2 was never promoted"):
        roll_back(home, "v2")
    there = {path.name: path.stat().st_mtime_ns for path in (home / "versions" / "v2").iterdir()}
    done = june(home, whole)
    assert (done.version, done.promoted, done.record.parent) == ("v2", True, "v1") and trained == ["fine-tune"]
    assert current_version(home) == "v2" and left(home) == [] and done.record == read_record(home, "v2")
    assert there == {path.name: path.stat().st_mtime_ns for path in (home / "versions" / "v2").iterdir()}
    assert [of.name for of in done.record.experiences] == ["digits", "night"] and done.record.bytes > 1e5


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["point_to", "done"])
def test_killed_around_the_moment_in_which_the_pointer_moves_no_month_is_learned_twice(
    home, whole, trained, monkeypatch, moment
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "done":
            patch.setattr(updating.Unfinished, "done", killed)
        else:
            patch.setattr("avalanche_vlm.studies.living.records.point_to", killed)
        june(home, whole)
    if moment == "point_to":
        assert current_version(home) == "v1" and june(home, whole).version == "v2"
    else:
        with pytest.raises(InputError, match="v2 is the model already, and the update that made it was killed as it"):
            june(home, whole)
    assert trained == ["fine-tune"] and left(home) == []
    assert current_version(home) == "v2" and version_names(home) == ["v1", "v2"]


def test_a_record_of_a_model_that_no_file_stands_beside_says_what_the_gates_found(home, whole, trained):
    done = june(home, whole, promote="never")
    (home / "versions" / "v2.json").unlink()
    assert read_record(home, "v2") == done.record and not done.record.promoted


@pytest.mark.slow
def test_another_update_leaves_what_was_killed_a_candidate(home, whole, trained, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(updating, "settle", killed)
        june(home, whole)
    done = june(home, whole, recipe="wise-ft")
    assert done.version == "v3" and done.promoted and left(home) == [] and trained == ["fine-tune", "wise-ft"]
    assert [of["promoted"] for of in list_versions(home)] == [True, False, True]


@pytest.mark.slow
def test_killed_before_the_version_was_whole_nothing_is_there(home, whole, trained, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(updating, "save_version", killed)
        june(home, whole)
    assert version_names(home) == ["v1"] and not (home / "versions" / "v2.json").exists()
    assert june(home, whole).version == "v2" and left(home) == []


def test_an_update_that_was_overtaken_stays_a_candidate(home, whole, trained, monkeypatch):
    assert june(home, whole).version == "v2"
    turned = updating.learn

    def rolled_back(learner, *given, **options):
        turned(learner, *given, **options)
        roll_back(home, "v1")  # somebody finds that v2 is bad while v3 is being trained

    monkeypatch.setattr(updating, "learn", rolled_back)
    done = update(home, whole, experiences=[1], promote="always")
    assert not done.promoted and current_version(home) == "v1" and not read_record(home, "v3").promoted
    assert done.refusal == "v1 has become the model meanwhile, and v3 goes on from v2"


def test_a_month_without_test_samples_is_refused_before_training(home, whole, trained):
    untested = VLMBenchmark(
        whole.name,
        whole.kind,
        [experience.dataset for experience in whole.train_stream],
        [whole.test_stream[0].dataset, whole.test_stream[1].dataset.subset([])],
        label_space=whole.label_space,
        task_names=whole.task_names,
    )
    with pytest.raises(InputError, match=r"^night has no test samples, so nothing could say"):
        june(home, untested)
    assert trained == [] and version_names(home) == ["v1"] and left(home) == []


@pytest.mark.parametrize("device", ["nope", "cuda:99", 1.5])
def test_a_device_that_there_is_not_is_named(home, whole, trained, device):
    with pytest.raises(InputError, match=rf"^device '{device}' is none that torch can use on this machine$"):
        june(home, whole, device=device)
    assert trained == [] and load(home).name == "tiny" and open_saved(home).folder.name == "v1"
