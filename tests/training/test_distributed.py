"""Recipes in several processes end with what one process ends with."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, LwFPlugin
from avalanche.training.supervised import Naive
from launched import Launch
from mini import mini
from processes import together
from torch import nn

from avalanche_vlm._ranks import found_ranks
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.training import VLMNaive, distributed, recipes
from avalanche_vlm.training.checkpoint.plugin import CheckpointPlugin
from avalanche_vlm.training.checkpoint.resuming import resume
from avalanche_vlm.training.plugins import AnchorPenaltyPlugin

CLOSE = 1e-5
"""Relative: losses of all steps, and every tensor of the model that did not begin at zero."""
MOVED = 1e-4
"""Relative: tensors that began at zero, which are nothing but sums of steps. After twenty of them rounding alone makes
as much: of one process whose weights begin 6e-8 apart, 9e-6 with ``fine-tune`` and 4e-5 with ``text-replay``."""
MAGNIFIED = {("rapf", "classes"): 1e-2}
"""The same where a decomposition magnifies rounding: 3e-3 with one process, likewise."""


def compared(folder: Path, processes: int, samples: int, epochs: int, *cases: str) -> list[dict]:
    """How far trainings of both kinds are apart, as the first process tells."""
    run = Launch(folder / "run", processes, "ranks_runs", str(samples), str(epochs), *cases)
    first, *others = run.ended(7000)
    assert first.code == 0, first.errors
    assert [other.code for other in others] == [0] * (processes - 1)
    assert not any(other.out for other in others)
    return [json.loads(line) for line in first.out.splitlines()]


def hold(found: list[dict]) -> None:
    for case in found:
        assert case.get("error") is None, case
        assert case["losses"] < CLOSE, case
        assert case["weights"] < CLOSE, case
        assert case["moved"] < MAGNIFIED.get((case["recipe"], case["kind"]), MOVED), case
        assert case["result"], case  # scores, held-out sets and figures, to the last digit that is written
        assert case["ledger"], case


def test_three_processes_train_what_one_does_with_uneven_batches(tmp_path):
    # Eleven samples in batches of eight: 2, 3 and 3 of them a process, then one of three.
    found = compared(tmp_path, 3, 11, 1, "zscl/classes", "lora/pairs")
    assert [case["steps"] for case in found] == [4, 4]
    hold(found)


def test_two_processes_read_half_each_and_train_what_one_does(tmp_path):
    # Every sample draws from three generators; the last batch of three is read in shares of one and two.
    for case in (found := compared(tmp_path, 2, 11, 2, "zscl/files/", "replay/files/", "ewc-clip/files/")):
        alone, shared = case["reads"]
        assert shared < 0.6 * alone, case
    hold(found)


def test_two_processes_train_in_parts_what_one_does_with_the_whole_batch(tmp_path):
    # Parts of four rows, of which each process encodes two; the last batch of three has parts of two and of one, which
    # both encode. Adapters drop values, and do it within a part: one process has parts as well, then.
    found = compared(tmp_path, 2, 11, 1, "zscl/pairs/parts", "lora/classes/parts", "adapter-per-task/pairs/all-parts")
    assert [case["steps"] for case in found] == [4, 4, 4]
    for case in found:
        assert case.get("error") is None, case
        assert case["losses"] < CLOSE and case["weights"] < CLOSE and case["moved"] < MOVED, case
        assert case["scores"], case


@pytest.mark.grid
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("kind", ["classes", "pairs"])
def test_every_recipe_ends_with_the_same_weights(kind, processes, tmp_path):
    # Thirty-six samples: four batches of eight and one of four in each of two epochs and two tasks, 20 steps.
    names = recipes.list(kind=kind)
    found = compared(tmp_path, processes, 36, 2, *(f"{name}/{kind}" for name in names))
    assert [case["recipe"] for case in found] == list(names)
    hold(found)


# What is refused ----------------------------------------------------------------------------------------------------


def strategy_on(model: VLM, plugins=(), kind=VLMNaive):
    return kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=[]),
    )


def test_a_plugin_that_does_not_say_that_it_can_is_refused_before_training():
    strategy = strategy_on(mini(), [LwFPlugin()])
    with pytest.raises(InputError, match="LwFPlugin does not train in several processes"):
        distributed.refuse_unshared(strategy)


@pytest.mark.parametrize(
    ("put", "why"),
    [
        (nn.BatchNorm1d(4), "ln_post normalises by the statistics of a batch"),
        (nn.Dropout(0.1), "ln_post draws what it leaves out"),
    ],
)
def test_towers_that_look_at_the_whole_batch_are_refused_while_they_train(put, why):
    model = mini()
    model.clip.visual.ln_post = put
    with pytest.raises(InputError, match=why):
        distributed.refuse_unshared(strategy_on(model))
    distributed.refuse_unshared(strategy_on(model.freeze("image")))  # in eval mode for good


def test_dropout_of_nothing_is_no_dropout():
    model = mini()
    model.clip.visual.ln_post = nn.Dropout(0.0)
    distributed.refuse_unshared(strategy_on(model))


def refusals(rank: int) -> list[str]:
    from avalanche_vlm.benchmarks import picturebook

    stream = picturebook.mtil_like(n_train=8, n_test=4, order=["sketches"], n_held_out=1, n_reference=1).train_stream
    found = []
    model = mini()
    with torch.no_grad():
        next(model.parameters()).add_(rank)
    for strategy in (strategy_on(model), strategy_on(mini(), [AnchorPenaltyPlugin()], Naive)):
        try:
            strategy.train(stream[0])
        except InputError as error:
            found.append(str(error))
    return found


def test_processes_with_different_models_are_refused_and_so_is_a_strategy_that_averages_nothing(tmp_path):
    for weights, stock in together(refusals, tmp_path / "meeting"):
        assert weights.startswith("processes 0 and 1 start with different weights (clip.")
        assert stock.startswith("several processes train with a Naive, which averages no gradients")


def disagreeing(rank: int, folder: Path) -> str:
    plugin = CheckpointPlugin(folder / str(rank))
    strategy = strategy_on(mini(), [plugin])
    if rank == 1:
        ranks = found_ranks()
        found = ranks.told("the third iteration")
    try:
        if rank == 0:
            resume(strategy, folder / str(rank))
    except InputError as error:
        return str(error)
    return str(found)


def test_processes_that_find_other_checkpoints_are_refused(tmp_path):
    said, _ = together(lambda rank: disagreeing(rank, tmp_path), tmp_path / "meeting")
    assert "process 0 finds no checkpoint in" in said
    assert "process 1 the third iteration: it has to be a folder that all of them see" in said


def test_a_script_that_nobody_has_launched_trains_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.start() is None
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")  # of something else that has the name
    assert distributed.start() is None
