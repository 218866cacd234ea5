"""One stream trained at once and month by month: fresh objects for every month, with nothing but the state between."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from mini import mini
from quick import LESS
from safetensors.torch import load, save

from avalanche_vlm.benchmarks import VLMBenchmark
from avalanche_vlm.models import VLM
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins import WarmupCosinePlugin
from avalanche_vlm.training.state import load_training_state, training_state

Stream = Callable[[int], VLMBenchmark]
"""The stream of so many months: each the beginning of the next."""


def trained_at_once(stream: Stream, months: int, recipe: str, **options: Any) -> tuple[VLM, dict[str, Any]]:
    """The model and the state of a training over all months without a break."""
    benchmark = stream(months)
    model, plugins, strategy = assembled(benchmark, recipe, options)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return model, training_state(model, plugins)


def trained_by_month(stream: Stream, months: int, recipe: str, **options: Any) -> tuple[VLM, dict[str, Any]]:
    """The same, where nobody knows of a month before it is there."""
    state: dict[str, Any] = {}
    for month in range(1, months + 1):
        known = stream(max(1, month - 1))
        model, plugins, strategy = assembled(known, recipe, options)
        if state:
            load_training_state(model, plugins, state)
        now = stream(month)
        if now.label_space is not None:
            model.grow_label_space(now.label_space)
        strategy.train(now.train_stream[month - 1])
        state = through_files(training_state(model, plugins))
    return model, state


def assembled(benchmark: VLMBenchmark, recipe: str, options: dict[str, Any]) -> tuple[VLM, list[Any], VLMNaive]:
    """As ``run_experiment`` does it, with a small model."""
    model = mini()
    torch.manual_seed(0)
    if benchmark.label_space is not None:
        model.set_label_space(benchmark.label_space)
    chosen = recipes.get(recipe)
    model.competing.in_training = chosen.train_classes
    given = {what: getattr(benchmark, what) for what in chosen.takes}
    plugins = recipes.build(recipe, model=model, **given, **{**LESS.get(recipe, {}), **options})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        evaluator = EvaluationPlugin(loggers=[])
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion_for(benchmark.kind, model),
        train_mb_size=16,
        train_epochs=1,
        plugins=[*plugins, WarmupCosinePlugin(1)],
        evaluator=evaluator,
    )
    return model, plugins, strategy


def through_files(state: dict[str, Any]) -> dict[str, Any]:
    """Through what a disk can hold: tensors as safetensors, everything else as JSON."""
    tensors = {name: entry for name, entry in state.items() if isinstance(entry, torch.Tensor)}
    rest = json.dumps({name: entry for name, entry in state.items() if name not in tensors})
    return load(save({name: t.contiguous().clone() for name, t in tensors.items()})) | json.loads(rest)


def different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of the entries in which two states differ."""
    found = sorted(first.keys() ^ second.keys())
    for name in first.keys() & second.keys():
        one, other = first[name], second[name]
        if isinstance(one, torch.Tensor):
            same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        else:
            same = json.dumps(one) == json.dumps(other)
        found += [] if same else [name]
    return sorted(found)
