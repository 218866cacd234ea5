"""``run`` leaves a model, ``compare`` does where it is asked to; before the result counts as finished."""

from __future__ import annotations

import pytest
import torch
from small_runs import SMALL, read, run

from avalanche_vlm import cli, load
from avalanche_vlm.artifacts import open_saved
from avalanche_vlm.commands import arguments
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.results import LEDGER
from avalanche_vlm.studies.outcome import Outcome

pytestmark = pytest.mark.usefixtures("narrow_tiny")


@pytest.mark.slow
def test_run_leaves_a_model_with_what_it_came_to(tmp_path):
    assert run("run", "--recipe", "lora", "--set", "rank=2", "--out", str(tmp_path)) == 0
    result, found = read(tmp_path / "result.json"), open_saved(tmp_path).description
    assert found.protocol == result["protocol"] and found.result["metrics"] == result["metrics"]
    ledger = {**found.ledger, "run": found.about["run"]}
    assert found.result["matrix"] == result["matrix"] and ledger == LEDGER.read(tmp_path / "ledger.json")
    assert [(step.recipe, step.options["rank"]) for step in found.built] == [("lora", 2)]
    assert not found.plain and found.modules == ["task_0", "task_1"] and found.raw_data is False
    model = load(tmp_path)
    assert model.label_space.task_names == ("sketches", "night") and len(model.routed.pool) == 2
    assert {"training.json", "model.safetensors"} <= found.files.keys()


@pytest.mark.slow
def test_what_is_saved_is_asked_for(tmp_path, capsys):
    assert run("run", "--recipe", "zero-shot", "--no-save", "--out", str(tmp_path / "a")) == 0
    assert not (tmp_path / "a" / "model").exists()
    loud = [argument for argument in SMALL if argument != "--quiet"]
    assert cli.main(["run", "--recipe", "zero-shot", "--out", str(tmp_path / "a"), *loud]) == 0
    assert "its model was not saved then" in capsys.readouterr().err
    assert run("run", "--recipe", "zero-shot", "--embed-base", "--out", str(tmp_path / "b")) == 0
    assert open_saved(tmp_path / "b").description.base.embedded
    assert run("compare", "--recipes", "zero-shot", "--seeds", "0", "--out", str(tmp_path / "c")) == 0
    assert (tmp_path / "c/zero-shot/seed-0/result.json").exists() and not list(tmp_path.glob("c/*/*/model"))
    assert not list(tmp_path.glob("c/*/*/tests"))
    out = tmp_path / "d"
    words = ["compare", "--recipes", "zero-shot,wise-ft", "--seeds", "0,1", "--save-models", "--keep-tests", "3"]
    assert run(*words, "--out", str(out)) == 0
    record = read(out / "wise-ft/seed-1/versions/v1.json")
    assert {kept["samples"] for kept in (*record["experiences"], *record["held_out"])} == {3}
    saved = sorted(path.parent.relative_to(out).as_posix() for path in out.glob("*/*/model"))
    assert saved == [f"{recipe}/seed-{seed}" for recipe in ("wise-ft", "zero-shot") for seed in (0, 1)]
    weights = [load(out / "wise-ft" / f"seed-{seed}").clip.visual.proj for seed in (0, 1)]
    assert not torch.equal(*weights)


@pytest.mark.slow
def test_a_result_counts_as_finished_when_its_model_is_saved(tmp_path, monkeypatch, capsys):
    def full(self: Outcome, *_: object, **__: object) -> None:
        raise InputError("cannot save the model to there: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Outcome, "save", full)
        assert run("run", "--recipe", "zero-shot", "--out", str(tmp_path)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()
    assert run("run", "--recipe", "zero-shot", "--out", str(tmp_path)) == 0
    assert (tmp_path / "result.json").exists() and load(tmp_path).name == "tiny"


def test_flags_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="--embed-base says how the model is saved, and --no-save that it is not"):
        arguments.parse(["run", "--no-save", "--embed-base", "--out", "x"])
    with pytest.raises(InputError, match="compare saves them with --save-models"):
        arguments.parse(["compare", "--embed-base", "--out", "x"])
    _, request = arguments.parse(["compare", "--save-models", "--embed-base", "--out", "x"])
    assert request.saving.model and request.saving.base
    _, request = arguments.parse(["compare", "--save-models", "--no-raw-data", "--out", "x"])
    assert (request.saving.tests, request.saving.examples) == (0, 0)
    _, request = arguments.parse(["run", "--out", "x"])
    assert request.saving.model and not request.saving.base
