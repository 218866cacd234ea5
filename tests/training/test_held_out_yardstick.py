"""Held-out classes are measured by one yardstick: what did not change scores as the pretrained model does."""

from __future__ import annotations

import pytest
import torch
from avalanche.training.supervised import Naive
from mini import mini
from quick import LESS

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.evaluation.probes.erosion import read_set
from avalanche_vlm.evaluation.zero_shot import zero_shot_accuracy
from avalanche_vlm.studies.advice.pilot import Scores
from avalanche_vlm.training import criterion_for, recipes

WITH_HEADS = ("icarl", "rail-primal", "rail-dual", "ranpac", "simplecil", "lada", "proof")


@pytest.fixture(scope="module")
def stream():
    return picturebook.mtil_like(n_train=16, n_test=8, order=["sketches", "night"], n_held_out=80, n_reference=8)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "icarl" else pytest.mark.slow) for n in WITH_HEADS])
def test_a_head_on_towers_that_did_not_move_keeps_the_held_out_score(stream, name):
    torch.manual_seed(0)
    model = mini()
    sets = [of for of in stream.held_out if of.label_space is not None]
    before = [zero_shot_accuracy(model, of.dataset, of.label_space) for of in sets]
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-9),
        criterion=criterion_for("classes", model),
        train_mb_size=16,
        plugins=recipes.build(name, model=model, **LESS.get(name, {})),
        evaluator=None,
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    assert model.class_head is not None
    assert [zero_shot_accuracy(model, of.dataset, of.label_space) for of in sets] == pytest.approx(before, abs=0.02)
    everything = range(len(sets[0].dataset))
    assert read_set(model, sets[0], everything).score == pytest.approx(before[0], abs=0.02)
    piloted = Scores(model, stream)
    assert piloted.held_out[sets[0].name].mean() == pytest.approx(before[0], abs=0.02)
