"""Every recipe on a device that is not the CPU: a simulated one, which refuses what CUDA refuses."""

from __future__ import annotations

import os

import pytest
import torch
from on_device import Asked, unchosen
from quick import one_each

from avalanche_vlm.training import recipes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real CUDA device"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]
RUNS = [(name, kind) for name in recipes.list() for kind in recipes.get(name).kinds]
STANDING = ("fine-tune", "replay", "zscl", "lora", "moe-adapters", "ranpac")
KEPT = ("replay", "lora", "moe-adapters")
"""Samples, modules, draws on the device."""
WAITS = dict.fromkeys(("fine-tune", "replay", "zscl", "lora"), 1)
"""How often a step may wait for the device, where it is not ``MOST``: once, for the loss of the step before."""
MOST = 2
"""Of a step of any other recipe, and of a batch of the evaluation where a router or a head decides by its answers."""
OF_A_TEST_SET = {"classes": 3, "pairs": 2}
"""How often an evaluation may wait for a test set, whatever its number of batches: once for each metric that reads it,
which are the matrix, the changed answers and, of classes, the accuracies by class. For a held-out set it may once, and
once for the map of features."""


@pytest.fixture(scope="module")
def asked():
    process = Asked()
    yield process
    process.close()


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("none", "nothing"),
        ("tensor", "Expected all tensors to be on the same device"),
        ("generator", "Expected a 'cuda' device type for generator but found 'cpu'"),
        ("numpy", "can't convert cuda:0 device type tensor to numpy"),
        ("loss", "the loss became nan at experience 0, epoch 0, iteration 1: lower the learning rate"),
    ],
)
def test_a_planted_fault_is_found(asked, fault, sentence):
    assert asked("planted", fault=fault).startswith(sentence)


@pytest.mark.parametrize(
    ("recipe", "kind", "amp"), one_each([(*run, amp) for run in RUNS for amp in (None, "bf16")], STANDING)
)
def test_a_recipe_trains_on_the_device_and_hardly_waits_for_it(asked, recipe, kind, amp):
    moved = "after" if amp else "before"
    found = asked("trained", recipe=recipe, kind=kind, amp=amp, moved=moved)
    assert found["on the CPU"] == [] and found["finite"]
    if amp is None:
        assert found["waits"] <= WAITS.get(recipe, MOST), found["lines"]
        of_batch = found["waits of a test batch"]
        assert of_batch <= MOST, found["lines of a test batch"]
        sets, held_out = found["test sets"], found["held-out sets"]
        most = OF_A_TEST_SET[kind] * sets + held_out + 1 + of_batch * (sets + held_out)
        assert found["waits of an evaluation"] <= most, found["lines of an evaluation"]


def test_experts_that_nobody_chose_have_the_gradient_of_a_penalty_and_no_other_as_on_the_cpu(asked):
    expected, found = unchosen("cpu"), asked("unchosen")
    assert {name.partition(".")[0] for name, value in expected.items() if value is None} == {"3"}
    assert {name.partition(".")[0] for name, value in expected.items() if value} == {"0", "1", "2"}
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-4)), name


@pytest.mark.parametrize(("recipe", "kind"), one_each(RUNS, KEPT))
def test_checkpoints_and_saved_models_go_back_to_the_device(asked, tmp_path, recipe, kind):
    found = asked("kept", recipe=recipe, kind=kind, folder=str(tmp_path))
    assert found == {"began": [None, "trained"], "resumed": True, "loaded": True}
