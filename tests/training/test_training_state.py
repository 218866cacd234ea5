"""A training that is taken apart between two experiences and put together goes on as if nothing had happened."""

from __future__ import annotations

import json
import random
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from mini import shallow
from quick import LESS, QUICK, one_each
from safetensors.torch import load, save
from torch.utils.data import DataLoader

from avalanche_vlm.benchmarks import ImageText, VLMBenchmark, picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.latents import LatentMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins import (
    AnchorPenaltyPlugin,
    DistillationPlugin,
    FisherPenaltyPlugin,
    RunningMeanPlugin,
    TaskVectorMergePlugin,
    TextReplayPlugin,
    WarmupCosinePlugin,
)
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.reference import CurrentBatch, ReferenceSet
from avalanche_vlm.training.state import load_training_state, training_state
from avalanche_vlm.training.teachers import InitialTeacher, MovingAverageTeacher

RUNS = [(name, kind) for name in recipes.list() for kind in recipes.get(name).kinds]


@pytest.fixture(scope="module")
def streams() -> dict[str, VLMBenchmark]:
    """Three experiences of 32 pictures each."""
    sizes = {"n_train": 32, "n_test": 8, "n_held_out": 8, "n_reference": 32}
    return {
        "classes": picturebook.mtil_like(order=["sketches", "night", "toys"], **sizes),
        "pairs": picturebook.pairs(domains=("sketch", "night", "clean"), **sizes),
    }


def round_trip(state: dict[str, Any]) -> dict[str, Any]:
    """Through what a disk can hold: tensors as safetensors, everything else as JSON."""
    tensors = {name: entry for name, entry in state.items() if isinstance(entry, torch.Tensor)}
    rest = json.dumps({name: entry for name, entry in state.items() if name not in tensors})
    return load(save({name: t.contiguous().clone() for name, t in tensors.items()})) | json.loads(rest)


def strategy_for(base: type, model: VLM, plugins: list, kind: str, **options: Any) -> Naive:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    return base(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        criterion=criterion_for(kind, model),
        train_mb_size=16,
        train_epochs=1,
        eval_mb_size=32,
        plugins=plugins,
        evaluator=evaluator,
        **options,
    )


def predictions(model: VLM, benchmark: VLMBenchmark) -> list[torch.Tensor]:
    """What the model says of a batch of every task."""
    found = []
    with model.evaluating():
        for experience in benchmark.test_stream:
            x, _, tasks = next(iter(DataLoader(experience.dataset.eval(), batch_size=8)))
            found.append(model(x, tasks) if isinstance(x, ImageText) else model(x, tasks).softmax(1))
    return found


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, entry in first.items():
        other = second[name]
        if isinstance(entry, torch.Tensor):
            assert entry.dtype == other.dtype and torch.equal(entry.cpu(), other.cpu()), name
        else:
            assert json.dumps(entry) == json.dumps(other), name


def check_resumed(benchmark: VLMBenchmark, kind: str, make_plugins: Any, base: type = VLMNaive, **options: Any) -> None:
    """Two experiences, the state out and into fresh objects, and the third: as it is without a break."""
    keeps = base is Naive or options.get("keep_optimizer_state", False)
    first, second, third = benchmark.train_stream
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    model = shallow()
    plugins = make_plugins(model)
    strategy = strategy_for(base, model, plugins, kind, **options)
    for experience in (first, second):
        strategy.train(experience)
    state = round_trip(training_state(model, plugins, optimizer=strategy.optimizer if keeps else None))
    strategy.train(third)

    torch.manual_seed(0), random.seed(1), np.random.seed(1)
    fresh = shallow()
    fresh_plugins = make_plugins(fresh)
    fresh_strategy = strategy_for(base, fresh, fresh_plugins, kind, **options)
    torch.manual_seed(1)
    load_training_state(fresh, fresh_plugins, state, optimizer=fresh_strategy.optimizer if keeps else None)
    if keeps:
        fresh_strategy.optimized_param_id = dict(fresh.named_parameters())
    assert_same(
        state, round_trip(training_state(fresh, fresh_plugins, optimizer=fresh_strategy.optimizer if keeps else None))
    )
    fresh_strategy.train(third)
    for one, other in zip(predictions(model, benchmark), predictions(fresh, benchmark), strict=True):
        assert torch.equal(one, other)
    assert_same(training_state(model, plugins), training_state(fresh, fresh_plugins))


def of_recipe(name: str, benchmark: VLMBenchmark, model: VLM) -> list[SupervisedPlugin]:
    chosen = recipes.get(name)
    resources = {what: getattr(benchmark, what) for what in chosen.takes}
    options = {"max_bytes": 60_000} if "max_bytes" in chosen.settings else {}
    return recipes.build(name, model=model, **resources, **options, **LESS.get(name, {}))


@pytest.mark.parametrize(("name", "kind"), one_each(RUNS, quick=QUICK))
def test_every_recipe_goes_on_from_its_state_as_if_it_had_not_been_taken_apart(streams, name, kind):
    check_resumed(streams[kind], kind, partial(of_recipe, name, streams[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "pairs"])
@pytest.mark.parametrize("base", [Naive, partial(VLMNaive, keep_optimizer_state=True)])
def test_moments_of_the_optimizer_go_on_where_the_strategy_keeps_them(streams, kind, base):
    options = base.keywords if isinstance(base, partial) else {}
    check_resumed(streams[kind], kind, lambda model: [], getattr(base, "func", base), **options)
    check_resumed(
        streams[kind], kind, partial(of_recipe, "zscl", streams[kind]), getattr(base, "func", base), **options
    )


PLUGINS = {
    "schedule": lambda model, benchmark: [WarmupCosinePlugin(1)],
    "anchor and mean": lambda model, benchmark: [AnchorPenaltyPlugin(), RunningMeanPlugin(1)],
    "fisher": lambda model, benchmark: [FisherPenaltyPlugin(samples=4, kind="empirical", decay=0.5)],
    "ties": lambda model, benchmark: [TaskVectorMergePlugin("ties")],
    "random mix": lambda model, benchmark: [TaskVectorMergePlugin("random")],
    "moving average": lambda model, benchmark: [
        DistillationPlugin(model, _distance, CurrentBatch("batch"), MovingAverageTeacher(0.9))
    ],
    "features on disk": lambda model, benchmark: [
        DistillationPlugin(
            model, _distance, ReferenceSet(model, benchmark.reference, 8, "all"), InitialTeacher(max_bytes=1000)
        )
    ],
}
"""What no recipe has by its default options."""


def _distance(c) -> torch.Tensor:
    return (c.student.images - c.teacher.images).square().sum() + (c.student.texts - c.teacher.texts).square().sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", PLUGINS)
def test_plugins_that_no_recipe_has_by_default_go_on_as_well(streams, name):
    check_resumed(streams["classes"], "classes", lambda model: PLUGINS[name](model, streams["classes"]))


def test_text_replay_goes_on(streams):

    check_resumed(
        streams["pairs"], "pairs", lambda model: [TextReplayPlugin(model, LatentMemory(1 << 16), batch_size=8)]
    )


def test_a_plugin_that_does_not_declare_its_state_is_named():
    class Counter(SupervisedPlugin):
        pass

    class Silent(VLMPlugin):
        pass

    model = shallow()
    for plugin in (Counter(), Silent()):
        name = type(plugin).__name__
        with pytest.raises(InputError, match=f"what {name} keeps while a stream is trained is not declared"):
            training_state(model, [WarmupCosinePlugin(), plugin])
    state = training_state(model, [WarmupCosinePlugin(), Counter()], strict=False)
    assert state["plugins"] == ["WarmupCosinePlugin"]
    load_training_state(shallow(), [WarmupCosinePlugin(), Counter()], state, strict=False)


def test_a_state_of_other_plugins_or_another_model_is_refused():
    model = shallow()
    state = training_state(model, [WarmupCosinePlugin()])
    with pytest.raises(InputError, match=r"plugins \['WarmupCosinePlugin'\], and these are \['RunningMeanPlugin'\]"):
        load_training_state(model, [RunningMeanPlugin()], state)
    with pytest.raises(InputError, match="the state has no optimizer"):
        load_training_state(model, [WarmupCosinePlugin()], state, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(InputError, match="the state of a training lacks 'accelerator'"):
        load_training_state(model, [WarmupCosinePlugin()], {k: v for k, v in state.items() if k != "accelerator"})
    del state["model.clip.logit_scale"]
    with pytest.raises(InputError, match=r"does not fit the model: .*logit_scale"):
        load_training_state(model, [WarmupCosinePlugin()], state)


def test_every_random_generator_goes_on():
    model = shallow()
    draw = lambda: (random.random(), float(np.random.rand()), float(torch.rand(())))  # noqa: E731
    state = round_trip(training_state(model, []))
    first = draw()
    assert draw() != first
    load_training_state(model, [], state)
    assert draw() == first


DAMAGED = ("training", "accelerator", "random", "model._extra_state", "model.competing._extra_state")


@pytest.mark.parametrize("part", DAMAGED)
@pytest.mark.parametrize("damage", [3, None, "x", [3], {}, {"trains": 3, "frozen": []}, {"label_space": 3}])
def test_a_damaged_part_of_a_training_is_named_in_one_sentence(random_model, part, damage):
    state = training_state(random_model, [])
    assert part in state or part == "random"
    if part == "accelerator" and damage == [3]:
        return  # a list that names nothing that there is
    with pytest.raises(InputError) as told:
        load_training_state(random_model, [], {**state, part: damage})
    assert "\n" not in str(told.value)


def test_states_that_declare_nothing_to_be_understood():
    class Listed(VLMPlugin):
        states = ["a"]  # noqa: RUF012

    class Flagged(VLMPlugin):
        states = {"a": True}  # noqa: RUF012

    for plugin in (Listed, Flagged):
        with pytest.raises(InputError, match=f"states of {plugin.__name__} says of each attribute what it is"):
            plugin().state_dict()
