"""L2P, DualPrompt and CODA-Prompt on a stream, in Avalanche's own ``Naive``."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from torch import nn
from torch.utils.data import DataLoader

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.matrix import PerformanceMatrix
from avalanche_vlm.memory import stored_bytes
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins.query_prompts import QueryPromptPlugin

OPTIONS: dict[str, dict[str, Any]] = {
    "l2p": {"size": 6, "length": 3, "chosen": 2, "selection": "diverse"},
    "dualprompt": {"shared_length": 2, "task_length": 4},
    "coda-prompt": {"components": 4, "length": 4},
}
NAMES = list(OPTIONS)
KINDS = ("classes", "pairs")


class Probe(SupervisedPlugin):
    """Keeps what the loss was before and after the plugins in between."""

    def __init__(self, seen: list[float]) -> None:
        super().__init__()
        self.seen = seen

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append(float(strategy.loss))


def strategy_of(model, plugins, kind: str = "classes", cls: type = Naive, lr: float = 1e-2, **options: Any):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(PerformanceMatrix(), loggers=[])
    return cls(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1),
        criterion=criterion_for(kind, model),
        train_mb_size=32,
        eval_mb_size=64,
        plugins=plugins,
        evaluator=evaluator,
        **options,
    )


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_stream_trains_prompts_alone_and_leaves_those_of_past_tasks(name, kind, tiny_benchmark, tiny_pairs):
    benchmark = tiny_benchmark if kind == "classes" else tiny_pairs
    model = tiny_vlm()
    tower = state(model.clip)
    plugins = recipes.build(name, model=model, **OPTIONS[name])
    pool = model.image_path.pool
    strategy = strategy_of(model, plugins, kind, train_epochs=2)
    (matrix,) = (m for m in strategy.evaluator.metrics if isinstance(m, PerformanceMatrix))
    test = next(iter(DataLoader(benchmark.test_stream[0].dataset.eval(), batch_size=20)))[0]
    images = test if isinstance(test, torch.Tensor) else test.image
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.encode_image(images), model.encode_image_plain(images))
    strategy.eval(benchmark.test_stream)
    strategy.train(benchmark.train_stream[0])
    first = state(pool)
    strategy.eval(benchmark.test_stream)
    strategy.train(benchmark.train_stream[1])
    strategy.eval(benchmark.test_stream)
    rows = matrix.rows()
    assert rows.shape == (3, 2) and ((rows >= 0) & (rows <= 1)).all()
    assert pool.tasks == 2
    assert all(torch.equal(tensor, tower[key]) for key, tensor in model.clip.state_dict().items())
    for key, parameter in pool.named_parameters():
        # DualPrompt's shared prompt and L2P's pool go on learning.
        past = key.endswith(".0")
        assert parameter.requires_grad != past
        assert key not in first or torch.equal(parameter, first[key]) == past, key
    held = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in held for p in pool.parameters() if p.requires_grad)
    model.eval()
    with torch.no_grad():
        assert (model.encode_image(images) - model.encode_image_plain(images)).abs().max() > 1e-2
    assert stored_bytes(plugins).total == sum(t.numel() * t.element_size() for t in pool.state_dict().values())


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_criterion_and_the_weighed_penalty(name, tiny_benchmark):
    model = tiny_vlm("random")
    (plugin,) = recipes.build(name, model=model, weight=2.5, **OPTIONS[name])
    penalties: list[float] = []
    penalty = plugin.path.penalty
    plugin.path.penalty = lambda query: penalties.append(penalty(query).item()) or penalty(query)
    before, after = [], []
    strategy = strategy_of(model, [Probe(before), plugin, Probe(after)])
    strategy.train(tiny_benchmark.train_stream[0])
    assert len(before) == len(after) == len(penalties) == 2
    for criterion, loss, extra in zip(before, after, penalties, strict=True):
        assert loss == pytest.approx(criterion + 2.5 * extra, rel=1e-5)
    # CODA's start orthonormal.
    assert penalties[-1] > (1e-6 if name == "coda-prompt" else 0.1)


def test_l2p_counts_what_training_used_and_nothing_else(tiny_benchmark):
    model = tiny_vlm("random")
    plugins = recipes.build("l2p", model=model, **OPTIONS["l2p"])
    pool = model.image_path.pool
    strategy = strategy_of(model, plugins)
    strategy.train(tiny_benchmark.train_stream[0])
    strategy.eval(tiny_benchmark.test_stream)
    assert int(pool.using.sum()) == 64 * 2 and not pool.used.any()
    strategy.train(tiny_benchmark.train_stream[1])
    assert int(pool.using.sum()) == int(pool.used.sum()) == 64 * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_prompts_learn_their_task(name, tiny_benchmark):
    model = tiny_vlm()
    plugins = recipes.build(name, model=model, **OPTIONS[name])
    seen: list[float] = []
    strategy = strategy_of(model, [Probe(seen), *plugins], lr=3e-2, train_epochs=8)
    strategy.train(tiny_benchmark.train_stream[1])
    assert sum(seen[-4:]) < 0.8 * sum(seen[:4])


def test_a_step_in_half_precision_leaves_prompts_in_full(tiny_benchmark):
    model = tiny_vlm("random")
    plugins = recipes.build("coda-prompt", model=model, **OPTIONS["coda-prompt"])
    strategy_of(model, plugins, cls=VLMNaive, amp="bf16").train(tiny_benchmark.train_stream[0])
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.image_path.pool.parameters())


def test_defaults_are_the_published_ones_and_errors_name_the_culprit(random_model):
    assert recipes.get("coda-prompt").settings == {"components": 10, "length": 8, "blocks": 5, "weight": 0.1}
    published = {"shared_blocks": 2, "task_blocks": 3, "shared_length": 5, "task_length": 20, "weight": 1.0}
    assert recipes.get("dualprompt").settings == published
    assert {recipes.get(name).family for name in NAMES} == {"PEA"}
    with pytest.raises(InputError, match="recipe l2p: weight is a number of 0 or more, not -1"):
        recipes.build("l2p", model=random_model, weight=-1.0)
    assert random_model.image_path is None
    (plugin,) = recipes.build("l2p", model=random_model)
    assert isinstance(plugin, QueryPromptPlugin) and set(random_model.frozen) == {"image", "text", "scale"}
    with pytest.raises(InputError, match="image path is taken by prompts by query, and prompts by query needs it"):
        recipes.build("dualprompt", model=random_model)
