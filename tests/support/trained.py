"""Models that a recipe has trained for two short experiences, and what they predict."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from quick import LESS
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import ImageText, VLMBenchmark, picturebook
from avalanche_vlm.models import VLM
from avalanche_vlm.training import VLMNaive, criterion_for, recipes


def short_stream(kind: str) -> VLMBenchmark:
    """Two experiences of 32 pictures each."""
    sizes = {"n_train": 32, "n_test": 8, "n_held_out": 8, "n_reference": 32}
    if kind == "classes":
        return picturebook.mtil_like(order=["sketches", "night"], **sizes)
    return picturebook.pairs(domains=("sketch", "night"), **sizes)


@dataclass
class Trained:
    """A trained model, and all that made it."""

    model: VLM
    recipe: str
    options: dict[str, Any]
    resources: dict[str, Any]
    plugins: list[SupervisedPlugin]
    benchmark: VLMBenchmark

    @property
    def how(self) -> dict[str, Any]:
        """What ``save_model`` is told."""
        return {
            "recipe": self.recipe,
            "options": self.options,
            "resources": list(self.resources),
            "plugins": self.plugins,
        }


def build(recipe: str, benchmark: VLMBenchmark, make: Callable[[], VLM]) -> Trained:
    """A model on which a recipe was built, untrained."""
    torch.manual_seed(0)
    model = make()
    if benchmark.label_space is not None:
        model.set_label_space(benchmark.label_space)
    resources = {what: getattr(benchmark, what) for what in recipes.get(recipe).takes}
    options = LESS.get(recipe, {})
    plugins = recipes.build(recipe, model=model, **resources, **options)
    return Trained(model, recipe, options, resources, plugins, benchmark)


def train(recipe: str, benchmark: VLMBenchmark, make: Callable[[], VLM]) -> Trained:
    """The same after two experiences."""
    found = build(recipe, benchmark, make)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        evaluator = EvaluationPlugin(loggers=[])
    strategy = VLMNaive(
        model=found.model,
        optimizer=torch.optim.AdamW(found.model.parameters(), lr=1e-3),
        criterion=criterion_for(benchmark.kind, found.model),
        train_mb_size=16,
        train_epochs=1,
        eval_mb_size=32,
        plugins=found.plugins,
        evaluator=evaluator,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return found


def answers(model: VLM, benchmark: VLMBenchmark) -> list[torch.Tensor]:
    """What a model says of a batch of every task: under its task label, without one, and under every label space; the
    features of images; of pairs the similarities."""
    found = []
    with model.evaluating():
        for experience in benchmark.test_stream:
            x, _, tasks = next(iter(DataLoader(experience.dataset.eval(), batch_size=8)))
            x = x.to(model.device)
            found += [model(x, tasks), model(x), model.encode_image(x.image if isinstance(x, ImageText) else x)]
        space = model.label_space
        if space is not None:
            for visible in ("task", "seen", "union"):
                met = model.competing.state_dict()
                model.set_label_space(space.with_visible(visible))
                model.competing.load_state_dict(met)
                found.append(model(x, tasks))
            model.set_label_space(space)
            model.competing.load_state_dict(met)
    return found
