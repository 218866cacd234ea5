"""A strategy that is copied or pickled between two tasks trains on as the one that it was made from."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mini import shallow
from quick import LESS, QUICK, one_each
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.training import VLMNaive, criterion_for, recipes

CASES = [(name, kind) for name in recipes.list() for kind in recipes.get(name).kinds]


@pytest.fixture(scope="module")
def streams():
    sizes = {"n_train": 16, "n_test": 8, "n_held_out": 8, "n_reference": 16}
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night", "fabrics"], **sizes),
        "pairs": picturebook.pairs(domains=("sketch", "night", "negative"), **sizes),
    }


def begun(name, kind, benchmark):
    """A strategy that has trained two tasks."""
    model = shallow()
    if kind == "classes":
        model.set_label_space(benchmark.label_space)
    resources = {what: getattr(benchmark, what) for what in recipes.get(name).takes}
    torch.manual_seed(0)
    plugins = recipes.build(name, model=model, **resources, **LESS.get(name, {}))
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion_for(kind, model),
        plugins=plugins,
        evaluator=None,
        train_mb_size=8,
    )
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
    return strategy


@torch.no_grad()
def told(strategy, benchmark):
    """Logits of all test sets."""
    strategy.model.eval()
    found = []
    for experience in benchmark.test_stream:
        strategy.model.adaptation(experience)
        x, _, labels = next(iter(DataLoader(experience.dataset.eval(), 8)))
        found.append(strategy.model(x, labels))
    return found


@pytest.mark.parametrize(("name", "kind"), one_each(CASES, quick=QUICK))
def test_what_was_copied_between_two_tasks_trains_on_as_the_original(streams, name, kind):
    benchmark = streams[kind]
    strategy = begun(name, kind, benchmark)
    several = [strategy, copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))]
    before = [told(one, benchmark) for one in several]
    after = []
    for one in reversed(several):  # the original last: whatever the copies share with it would show
        torch.manual_seed(1)
        one.train(benchmark.train_stream[2])
        after.append(told(one, benchmark))
    for logits in (before, after):
        for other in logits[1:]:
            assert all(torch.equal(a, b) for a, b in zip(logits[0], other, strict=True))
    if recipes.get(name).trains:
        assert not all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
