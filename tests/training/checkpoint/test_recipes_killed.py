"""Every recipe, killed in the middle of its second experience."""

from __future__ import annotations

from functools import partial

import pytest
from killed import Training, assert_same, plugins_of
from quick import one_each

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.training import recipes

RUNS = [(name, kind) for name in recipes.list() for kind in recipes.get(name).kinds]


@pytest.fixture(scope="module")
def streams():
    """Two experiences of 32 pictures: two minibatches each."""
    sizes = {"n_train": 32, "n_test": 8, "n_held_out": 8, "n_reference": 32}
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night"], **sizes),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **sizes),
    }


@pytest.mark.parametrize(("name", "kind"), one_each(RUNS))
def test_every_recipe_goes_on_in_the_middle_of_an_experience(streams, tmp_path, name, kind):
    training = Training(streams[kind], partial(plugins_of, name, streams[kind]), epochs=2, minutes=9)
    whole = training.run(tmp_path / "whole")
    events = training.killer.heard
    second = len(events) - 1 - events[::-1].index("before_training_exp")
    iterations = events[second:].count("before_forward")
    last = events.count("before_forward")
    # In the last iteration of the second epoch, an iteration after a checkpoint, and at the end where there is none.
    event, number = ("after_training_exp", 2) if iterations == 0 else ("after_backward", last)
    assert training.run(tmp_path / "killed", event, number, asks=last - 1 if iterations > 1 else None) is None
    assert_same(whole, training.run(tmp_path / "killed"))
    assert training.started_from == 1 and training.killer.heard.count("before_forward") <= max(1, iterations - 1)
