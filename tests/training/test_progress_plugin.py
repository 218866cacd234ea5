"""Whoever watches is told how far a training is, while it is evaluated as well."""

from __future__ import annotations

from types import SimpleNamespace

from avalanche_vlm.training.plugins import ProgressPlugin


def test_an_evaluation_tells_the_last_place_again():
    told = []
    plugin = ProgressPlugin(lambda *place: told.append(place))
    strategy = SimpleNamespace(dataloader=[0, 0], train_epochs=3, experience=SimpleNamespace(current_experience=4))
    plugin.after_eval_iteration(strategy)
    plugin.before_training_exp(strategy)
    plugin.after_training_iteration(strategy)
    plugin.after_eval_iteration(strategy)
    plugin.after_eval_iteration(strategy)
    assert told == [(0, 0, 1), (4, 1, 6), (4, 1, 6), (4, 1, 6)]
    ProgressPlugin(None).after_eval_iteration(strategy)
