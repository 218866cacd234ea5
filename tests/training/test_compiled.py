"""Blocks of towers that torch compiles train what they train as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from mini import mini
from quick import LESS, one_each
from small_towers import resnet

from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.compat.modules import is_compiled
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import compiling
from avalanche_vlm.models.compiling import blocks_to_compile
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import recipes
from avalanche_vlm.training.checkpoint.conditions import training_conditions
from avalanche_vlm.training.settings import TrainSettings

SIZES = {"n_train": 24, "n_test": 8, "n_held_out": 8, "n_reference": 16}


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that torch has made, which run as they are: its own backend takes half a minute of a processor."""
    found: list[torch.fx.GraphModule] = []

    def kept(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", kept)
    torch.compiler.reset()
    return found


class Watching(SupervisedPlugin):
    """The loss of every step, which blocks are compiled then and between epochs, and what goes through a layer."""

    supports_distributed = False

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.within: set[bool] = set()
        self.between: set[bool] = set()
        self.seen: list[int] = []

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.within |= {is_compiled(block) for block in blocks_to_compile(strategy.model)}

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.losses.append(strategy.loss.item())
        if len(self.losses) == 2:
            layer = strategy.model.tower("image").transformer.resblocks[0].mlp.c_fc
            layer.register_forward_pre_hook(lambda _, inputs: self.seen.append(len(inputs[0])))

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.between |= {is_compiled(block) for block in blocks_to_compile(strategy.model)}


def trained(recipe: str, kind: str, compile: bool) -> tuple[Any, Watching]:
    make = picturebook.mtil_like if kind == "classes" else picturebook.pairs
    stream = {"order": ["sketches", "night"]} if kind == "classes" else {"domains": ("sketch", "night")}
    watching = Watching()
    torch.manual_seed(0)
    outcome = run_experiment(
        make(**stream, **SIZES),
        recipe,
        model=mini(),
        options=LESS.get(recipe),
        settings=TrainSettings(lr=1e-3, epochs=1, batch_size=16, compile=compile),
        plugins=[watching],
        seed=0,
    )
    return outcome, watching


def test_blocks_are_compiled_for_steps_alone_and_a_hook_that_comes_later_is_called(graphs):
    plain, of_plain = trained("fine-tune", "classes", compile=False)
    assert not graphs and of_plain.within == {False}
    compiled, of_compiled = trained("fine-tune", "classes", compile=True)
    assert of_compiled.within == {True} and of_compiled.between == {False}
    assert of_compiled.losses == of_plain.losses and compiled.result["matrix"] == plain.result["matrix"]
    assert of_compiled.seen == of_plain.seen != []
    assert compiled.result["protocol"]["train"]["compile"] and not plain.result["protocol"]["train"]["compile"]
    conditions = [training_conditions(of.strategy) for of in (plain, compiled)]
    assert {**conditions[0], "compiling of the towers' blocks": True} == conditions[1] != conditions[0]
    # One for all blocks of the towers, those with the smaller last batch, and with the hook: not one for each.
    before = len(graphs)
    assert 0 < before <= 8
    trained("fine-tune", "classes", compile=True)
    assert len(graphs) <= before + 2


STANDING = ("gnsp", "latent-replay", "lora", "zscl")
CASES = [(name, kind) for name in recipes.list() for kind in recipes.get(name).kinds]


@pytest.mark.parametrize(("recipe", "kind"), one_each(CASES, STANDING, quick=("lora",)))
def test_every_recipe_trains_the_same(graphs, recipe, kind):
    (plain, of_plain), (compiled, of_compiled) = (trained(recipe, kind, on) for on in (False, True))
    torch.testing.assert_close(of_compiled.losses, of_plain.losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled.result["matrix"], plain.result["matrix"], rtol=0, atol=0)


def test_what_cannot_be_compiled_is_refused_in_a_sentence(monkeypatch):
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler was found\nand so on")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    torch.compiler.reset()
    with pytest.raises(
        InputError, match=r"cannot compile the blocks of mini: .*no C\+\+ compiler.*; leave compile out"
    ):
        trained("fine-tune", "classes", compile=True)


def test_towers_without_blocks_stay_as_they_are_or_are_refused(monkeypatch):
    model = resnet()  # whose texts are read by a transformer
    assert blocks_to_compile(model) == list(model.clip.transformer.resblocks)
    monkeypatch.setattr(compiling, "tower_blocks", lambda tower: None)
    with pytest.raises(InputError, match="has no blocks of a transformer that torch could compile"):
        trained("fine-tune", "classes", compile=True)
