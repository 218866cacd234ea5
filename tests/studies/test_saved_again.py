"""An experiment on a model that was loaded is saved with what was built on the model before."""

from __future__ import annotations

import shutil

import pytest
import torch
from saved import saved_lora
from trained import short_stream

from avalanche_vlm.artifacts import load, open_saved
from avalanche_vlm.models import create_vlm
from avalanche_vlm.storage import write_tensors
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.studies.living.learning import revived
from avalanche_vlm.training.settings import TrainSettings

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def said(model):
    with model.evaluating():
        return model(IMAGES)


def again(model, recipe):
    settings = TrainSettings(lr=5e-4, epochs=1, batch_size=16, warmup=1)
    return run_experiment(short_stream("classes"), recipe, model=model, settings=settings, evaluate=False)


@pytest.mark.parametrize("recipe", ["zero-shot", pytest.param("fine-tune", marks=pytest.mark.slow)])
def test_a_model_with_modules_is_saved_with_them_after_another_experiment(tmp_path, recipe):
    model = load(saved_lora(tmp_path / "first"))
    again(model, recipe).save(tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    saved = open_saved(tmp_path / "second")
    assert [step.recipe for step in saved.description.built] == ["lora", recipe]
    assert saved.description.base.frozen == ["scale"]  # as it was before the first of them
    loaded = load(tmp_path / "second")
    assert loaded.routed.pool.names == model.routed.pool.names and torch.equal(said(loaded), said(model))
    learner = revived(saved, None, {}, {}, train_classes="current")  # and goes on learning from there
    states = learner.model.state_dict()
    assert all(torch.equal(value, states[name]) for name, value in model.state_dict().items() if name in states
               and isinstance(value, torch.Tensor))  # fmt: skip


@pytest.mark.slow
def test_a_base_that_came_along_goes_on_with_it(tmp_path):
    write_tensors(tmp_path / "weights.safetensors", dict(create_vlm("tiny").clip.state_dict()))
    create_vlm("tiny", tmp_path / "weights.safetensors").save(tmp_path / "first", embed_base=True)
    (tmp_path / "weights.safetensors").unlink()
    again(load(tmp_path / "first"), "zero-shot").save(tmp_path / "second")
    assert open_saved(tmp_path / "second").description.base.embedded and load(tmp_path / "second").name == "tiny"
