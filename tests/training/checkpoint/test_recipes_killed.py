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
    training = Training(streams[kind], partial(plugins_of, name, streams[kind]), epochs=2)
    whole = training.run(tmp_path / "whole")
    events = training.killer.heard
    second = len(events) - 1 - events[::-1].index("before_training_exp")
    iterations = events[second:].count("before_forward")
    before = events[:second].count("before_forward")
    # In the last iteration of the second epoch, and after the first iteration where there is no second.
    moments = [("after_training_exp", 2)] if iterations == 0 else [("after_backward", before + iterations)]
    for event, number in moments:
        assert training.run(tmp_path / "killed", event, number) is None
        assert_same(whole, training.run(tmp_path / "killed"))
        assert training.started_from == 1
