"""What building a recipe leaves as it is: predictions, and that everything can be copied and pickled."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mini import shallow
from quick import slow_but_for_some
from torch.utils.data import DataLoader

from avalanche_vlm.evaluation.held_out import read_held_out
from avalanche_vlm.training import VLMNaive, criterion_for, recipes

CASES = [(name, kind) for name in recipes.list() for kind in recipes.get(name).kinds]


@pytest.fixture(scope="module")
def streams(tiny_benchmark, tiny_pairs):
    return {"classes": tiny_benchmark, "pairs": tiny_pairs}


def built(name, kind, streams):
    """A model with a recipe, as the first evaluation finds it."""
    benchmark = streams[kind]
    model = shallow()
    if kind == "classes":
        model.set_label_space(benchmark.label_space)
    resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
    return model, recipes.build(name, model=model, **resources)


@torch.no_grad()
def row_0(model, benchmark):
    """Logits of every test set, and everything that is said of held-out sets, before any training."""
    model.eval()
    logits = []
    for experience in benchmark.test_stream:
        model.adaptation(experience)
        x, _, labels = next(iter(DataLoader(experience.dataset.eval(), 8)))
        logits.append(model(x, labels))
    return logits, [read_held_out(model, held_out) for held_out in benchmark.held_out]


@pytest.fixture(scope="module")
def untouched(streams):
    """Row 0 of ``zero-shot`` by kind of stream."""
    return {kind: row_0(built("zero-shot", kind, streams)[0], benchmark) for kind, benchmark in streams.items()}


@pytest.mark.parametrize(("name", "kind"), slow_but_for_some(CASES, recipes.list()))
def test_before_training_every_recipe_is_the_pretrained_model(streams, untouched, name, kind):
    logits, held_out = row_0(built(name, kind, streams)[0], streams[kind])
    expected, expected_held_out = untouched[kind]
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert held_out == expected_held_out


@pytest.mark.parametrize(("name", "kind"), slow_but_for_some(CASES))
def test_a_strategy_can_be_copied_and_pickled(streams, untouched, name, kind):
    model, plugins = built(name, kind, streams)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    strategy = VLMNaive(
        model=model, optimizer=optimizer, criterion=criterion_for(kind, model), plugins=plugins, evaluator=None
    )
    for again in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
        assert [type(part) for part in again.plugins] == [type(part) for part in strategy.plugins]
        held = {id(p) for group in again.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in again.model.parameters()}  # one object still, and the copy's
        logits, _ = row_0(again.model, streams[kind])
        assert all(torch.equal(a, b) for a, b in zip(logits, untouched[kind][0], strict=True))
