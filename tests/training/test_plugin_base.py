"""What every plugin of ours has from the base class."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from avalanche.training.supervised import Naive

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import IN_MODEL
from avalanche_vlm.training import plugins, recipes
from avalanche_vlm.training.plugins.base import VLMPlugin, refuse_other_model

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


@pytest.mark.parametrize("name", recipes.list())
def test_what_a_recipe_puts_into_a_model_is_refused_beside_another_model(name, random_model, tiny_benchmark):
    other = copy.deepcopy(random_model)
    resources = {"reference": tiny_benchmark.reference, "generator": tiny_benchmark.generator}
    built = recipes.build(name, model=random_model, **resources)
    twin, of_twin = copy.deepcopy((random_model, built))
    for plugin in built:
        refuse_other_model(plugin, random_model)
        if any(how is IN_MODEL for how in plugin.declared().values()):
            for model in (other, twin):
                with pytest.raises(InputError, match=f"{type(plugin).__name__} was made for another model than"):
                    refuse_other_model(plugin, model)
    for plugin in of_twin:  # what is copied together belongs together
        refuse_other_model(plugin, twin)


def test_a_training_of_another_model_than_the_recipe_was_built_with_does_not_start(random_model, tiny_benchmark):
    """It trained without the method, and said nothing."""
    model, plugins_of_another = random_model, recipes.build("lora", model=copy.deepcopy(random_model))
    before = copy.deepcopy(model.state_dict())
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=torch.nn.CrossEntropyLoss(),
        plugins=plugins_of_another,
        evaluator=None,
    )
    with pytest.raises(InputError, match="build the recipe with the very model that the strategy gets"):
        strategy.train(tiny_benchmark.train_stream[0])
    assert all(torch.equal(value, before[name]) for name, value in model.clip.state_dict(prefix="clip.").items())
