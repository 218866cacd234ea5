"""A model that was built by hand: its base is given, and every model that is made of it is one of its own."""

from __future__ import annotations

import pytest
import torch
from mini import mini

from avalanche_vlm.artifacts import load, save_model
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.studies.living import difference_of, update
from avalanche_vlm.studies.living.first import record_first
from avalanche_vlm.studies.living.growth import beginning
from avalanche_vlm.training.settings import TrainSettings

SETTINGS = TrainSettings(lr=5e-4, epochs=1, batch_size=12, warmup=1)


def test_two_versions_are_two_models(tmp_path):
    model = mini()
    save_model(tmp_path, model, base=mini())
    with torch.no_grad():
        model.clip.visual.proj.add_(1)
    save_model(tmp_path, model, base=mini())
    found = difference_of(tmp_path, "v1", "v2", base=mini())
    assert found["weights"] != difference_of(tmp_path, "v1", "v1", base=mini())["weights"]


@pytest.mark.slow
def test_what_is_asked_before_an_update_is_not_what_learns(tmp_path):
    sizes = {"n_train": 24, "n_test": 12, "n_held_out": 12, "n_reference": 24}
    whole = picturebook.mtil_like(order=["digits", "night"], label_space="seen", **sizes)
    month, model = beginning(whole, 1), mini()
    outcome = run_experiment(month, "lora", model=model, settings=SETTINGS, evaluate=False)
    outcome.save(tmp_path)
    record_first(tmp_path, "v1", month, model, 8)
    done = update(tmp_path, whole, experiences=(1,), promote="always", base=mini())
    assert done.version == "v2" and done.promoted
    first, second = (load(tmp_path / "versions" / version, base=mini()).state_dict() for version in ("v1", "v2"))
    assert any("task_1" in name for name in second) and not any("task_1" in name for name in first)
    kept = [name for name in first if "bank.task_0" in name]
    assert kept and all(torch.equal(first[name], second[name]) for name in kept)
