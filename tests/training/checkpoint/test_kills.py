"""A training that is killed, at whatever moment, goes on as if it had not been."""

from __future__ import annotations

import pytest
from killed import Training, assert_same
from quick import slow_but_for_some

from avalanche_vlm.benchmarks import picturebook


@pytest.fixture(scope="module")
def streams():
    """Two experiences of 48 pictures: three minibatches each."""
    sizes = {"n_train": 48, "n_test": 8, "n_held_out": 8, "n_reference": 32}
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night"], **sizes),
        "pairs": picturebook.pairs(domains=("sketch", "night"), **sizes),
    }


MOMENTS = [
    ("before_training", 1),
    ("before_training_exp", 1),
    ("before_training_iteration", 1),
    ("after_forward", 2),
    ("before_training_epoch", 2),
    ("after_update", 5),
    ("after_training_exp", 1),
    ("before_eval_iteration", 1),
    ("after_training", 1),
    ("before_training", 2),
    ("before_train_dataset_adaptation", 2),
    ("before_update", 8),
    ("after_training_epoch", 4),
    ("before_eval_exp", 4),
]


@pytest.fixture(scope="module")
def two_epochs(streams, tmp_path_factory):
    """A training, and what it ends with if nobody kills it."""
    training = Training(streams["classes"], epochs=2)
    return training, training.run(tmp_path_factory.mktemp("whole"))


QUICK = ("after_update",)


@pytest.mark.parametrize(("event", "number"), slow_but_for_some(MOMENTS, QUICK))
def test_a_training_goes_on_from_any_moment_as_if_it_had_not_been_killed(two_epochs, tmp_path, event, number):
    training, whole = two_epochs
    assert training.run(tmp_path, event, number) is None
    assert_same(whole, training.run(tmp_path))
