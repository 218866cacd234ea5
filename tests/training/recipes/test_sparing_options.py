"""Options that spare memory, over all recipes: the gradient that it is without them, or a refusal with the reason."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from mini import mini
from quick import LESS, one_each
from trained import short_stream

from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.feasible import refuse_unsuited
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins.analytic import NoTrainingPlugin
from avalanche_vlm.training.plugins.base import VLMPlugin, refuse_options
from avalanche_vlm.training.settings import TrainSettings

OPTIONS = {"accumulate": 4, "grad_checkpointing": True}
REFUSED = {
    "accumulate": {"latent-replay", "moe-adapters", "l2p", "dualprompt", "coda-prompt"},
    "grad_checkpointing": {"latent-replay", "moe-adapters", "l2p", "dualprompt", "coda-prompt", "maple"},
    "fp16": {"gift", "ewc-clip", "keeplora"},
}
"""As docs/scaling.md has it."""
RUNS = [(name, kind, option) for name in recipes.list() for kind in recipes.get(name).kinds for option in OPTIONS]
STANDING = ("fine-tune", "replay", "zscl", "lora", "moe-adapters", "maple", "l2p", "latent-replay", "ctp")


class FirstStep(VLMPlugin):
    """The loss and the gradients of the first step of each experience."""

    states = {}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.losses, self.gradients = [], []

    def after_backward(self, strategy, **kwargs):
        if strategy.clock.train_exp_iterations == 0:
            weights = strategy.model.named_parameters()
            self.losses.append(float(strategy.loss))
            self.gradients.append({name: p.grad.clone() for name, p in weights if p.grad is not None})


def built(recipe, benchmark):
    """A model and plugins; nothing is dropped out, which parts of a batch would draw anew."""
    torch.manual_seed(0)
    model = mini()
    if benchmark.label_space is not None:
        model.set_label_space(benchmark.label_space)
    resources = {what: getattr(benchmark, what) for what in recipes.get(recipe).takes}
    exact = {"dropout": 0.0} if "dropout" in recipes.all_options(recipe, {}) else {}
    return model, recipes.build(recipe, model=model, **resources, **LESS.get(recipe, {}), **exact)


def first_step(recipe, kind, **how):
    benchmark, step = short_stream(kind), FirstStep()
    model, plugins = built(recipe, benchmark)
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
        criterion=criterion_for(kind, model),
        train_mb_size=16,
        plugins=[*plugins, step],
        evaluator=EvaluationPlugin(loggers=[]),
        **how,
    )
    strategy.train(benchmark.train_stream[0])
    return step


@pytest.mark.parametrize(("recipe", "kind", "option"), one_each(RUNS, STANDING, quick=("fine-tune", "maple")))
def test_a_recipe_has_the_gradient_that_it_has_without_an_option_or_refuses_it(recipe, kind, option):
    benchmark, asked = short_stream(kind), {option: OPTIONS[option]}
    model, plugins = built(recipe, benchmark)
    if recipe in REFUSED[option]:
        with pytest.raises(InputError, match=rf"^recipe {recipe} does not go with {option}: \w+ .{{20,}}$"):
            refuse_unsuited(recipe, model, plugins, TrainSettings(**asked))
        with pytest.raises(InputError, match=rf"^the training does not go with {option}: "):
            first_step(recipe, kind, **asked)
        return
    refuse_unsuited(recipe, model, plugins, TrainSettings(**asked))
    whole, other = first_step(recipe, kind), first_step(recipe, kind, **asked)
    if any(isinstance(plugin, NoTrainingPlugin) for plugin in plugins):
        assert not whole.losses
        return
    assert other.losses == pytest.approx(whole.losses, rel=1e-6) and len(whole.losses) == 1
    for one, two in zip(whole.gradients, other.gradients, strict=True):
        assert list(one) == list(two)
        largest = max(float(gradient.abs().max()) for gradient in one.values())
        assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-6 * largest


@pytest.mark.parametrize("recipe", recipes.list())
def test_a_recipe_refuses_the_options_that_the_page_names_and_no_others(recipe):
    model, plugins = built(recipe, short_stream(recipes.get(recipe).kinds[0]))
    for option in (*REFUSED, "compile"):
        refused = pytest.raises(InputError) if recipe in REFUSED.get(option, ()) else nullcontext()
        with refused:
            refuse_options(recipe, model, plugins, {option: True})


def test_the_page_names_what_recipes_refuse():
    page = (Path(__file__).parents[3] / "docs/scaling.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \| (`--[^|]*) \| [^|]* \|$", page, re.MULTILINE)
    words = {"--accumulate": "accumulate", "--grad-checkpointing": "grad_checkpointing", "--amp fp16": "fp16"}
    named = {option: set() for option in REFUSED}
    for names, options in rows:
        for option in re.findall("`([^`]*)`", options):
            named[words[option]] |= set(re.findall("`([^`]*)`", names)) & set(recipes.list())
    assert named == REFUSED


def test_a_step_takes_so_many_batches_together():
    benchmark = short_stream("pairs")

    class Sizes(VLMPlugin):
        states = {}  # noqa: RUF012
        seen = []  # noqa: RUF012

        def after_forward(self, strategy, **kwargs):
            self.seen.append(len(strategy.mb_output))

    from avalanche_vlm.studies.experiment import run_experiment

    settings = TrainSettings(lr=1e-4, epochs=1, batch_size=8, accumulate=2)
    outcome = run_experiment(benchmark, "fine-tune", model=mini(), settings=settings, plugins=[Sizes()], evaluate=False)
    assert Sizes.seen == [16, 16, 16, 16]
    assert outcome.result["protocol"]["train"]["accumulate"] == 2
