"""What every plugin of ours has from the base class."""

from __future__ import annotations

import inspect

import pytest
import torch
from avalanche.training.supervised import Naive

from avalanche_vlm.training import plugins
from avalanche_vlm.training.plugins.base import VLMPlugin

OURS = {name: kind for name in plugins.__all__ if issubclass(kind := getattr(plugins, name), VLMPlugin)}


@pytest.mark.parametrize("name", OURS)
def test_each_plugin_says_whether_it_supports_distributed_training(name):
    # Avalanche overwrites the attribute of a class body: only a keyword of the class statement is heard.
    assert OURS[name].supports_distributed


def test_all_plugins_derive_from_the_typed_base():
    found = {name for name in plugins.__all__ if inspect.isclass(getattr(plugins, name))}
    assert found - set(OURS) == {"Comparison"}


@pytest.mark.slow
def test_parameters_are_prepared_before_the_optimizer_is_rebuilt(random_model, tiny_benchmark):
    class Order(VLMPlugin):
        def __init__(self):
            super().__init__()
            self.calls: list[str] = []

        def prepare_parameters(self, strategy):
            self.calls.append("prepare")
            make = strategy.make_optimizer
            strategy.make_optimizer = lambda **kwargs: (self.calls.append("optimizer"), make(**kwargs))

        def before_training_exp(self, strategy, **kwargs):
            self.calls.append("experience")

    order = Order()
    Naive(
        model=random_model,
        optimizer=torch.optim.SGD(random_model.parameters(), lr=0.0),
        criterion=torch.nn.CrossEntropyLoss(),
        plugins=[order],
        evaluator=None,
    ).train(tiny_benchmark.train_stream[0])
    assert order.calls[0] == "prepare" and order.calls[-1] == "experience" and "optimizer" in order.calls
