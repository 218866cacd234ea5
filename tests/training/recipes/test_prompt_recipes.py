"""Prompt methods on a stream, in Avalanche's own ``Naive``."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import pytest
import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from quick import slow_but_for_some

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import stored_bytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.key_value import CalibratedPool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.modules.tokens import inject_text_prompts
from avalanche_vlm.training.plugins.shared_module import SharedModulePlugin
from avalanche_vlm.training.recipes import build

SHARED = ("coop", "maple")
PER_TASK = ("s-prompts", "diki")


class Trained(NamedTuple):
    """What came out of a stream, and logits of some pictures before and after."""

    model: VLM
    plugin: object
    strategy: Naive
    before: torch.Tensor
    of_tasks: list[torch.Tensor]
    images: torch.Tensor


N = 8


def of_stream(benchmark, n: int = N) -> torch.Tensor:
    """Pictures that a task was trained on, others of every task, held-out ones, and noise."""
    images = [
        torch.stack([experience.dataset.eval()[i][0] for i in range(n)])
        for stream in (benchmark.train_stream, benchmark.test_stream)
        for experience in stream
    ]
    held_out = torch.stack([benchmark.held_out[0].dataset[i][0].image for i in range(n)])
    return torch.cat([*images, held_out, torch.randn(n, 3, 32, 32)])


@pytest.fixture(scope="module")
def trained(tiny_benchmark):
    """Every recipe, trained once on two tasks and kept."""
    cache: dict[str, Trained] = {}

    def train(name: str) -> Trained:
        if name not in cache:
            torch.manual_seed(0)
            images = of_stream(tiny_benchmark)
            model = tiny_vlm().set_label_space(tiny_benchmark.label_space.with_visible("union"))
            with torch.no_grad():
                before = model.eval()(images)
            (plugin,) = build(name, model=model)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                evaluator = EvaluationPlugin(loggers=[])
            strategy = Naive(
                model=model,
                optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
                criterion=torch.nn.CrossEntropyLoss(),
                train_mb_size=32,
                train_epochs=2,
                plugins=[plugin],
                evaluator=evaluator,
            )
            of_tasks = []
            for experience in tiny_benchmark.train_stream:
                with torch.enable_grad():  # whoever asks first may look without gradients
                    strategy.train(experience)
                with torch.no_grad():
                    of_tasks.append(model.eval()(images))
            cache[name] = Trained(model, plugin, strategy, before, of_tasks, images)
        return cache[name]

    return train


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED + PER_TASK)
def test_a_task_is_learned_with_its_module_alone(trained, tiny_benchmark, name):
    model, plugin, strategy, before, _, images = trained(name)
    plain = tiny_vlm().clip.state_dict()
    for key, tensor in model.clip.state_dict().items():
        if ".bank." not in key:
            assert torch.equal(tensor, plain[key])
    experience = tiny_benchmark.train_stream[1]
    loss = torch.nn.CrossEntropyLoss()
    y = torch.tensor([experience.dataset[i][1] for i in range(N)])
    with torch.no_grad(), plugin.pool.using(plugin.pool.names[-1]):
        seen = model.classify(model.encode_image_plain(images[N : 2 * N]))
    assert loss(seen, y) < loss(before[N : 2 * N], y)
    held = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    assert held >= {id(p) for p in plugin.pool.parameters(plugin.pool.names[-1])}
    assert list(model.trainable_parameters()) == [
        key for key, _ in model.named_parameters() if f".bank.{plugin.pool.names[-1]}." in key
    ]
    assert stored_bytes([plugin]).total >= plugin.pool.nbytes() > 0


@pytest.mark.parametrize("name", slow_but_for_some(SHARED + PER_TASK, ("maple", "s-prompts")))
@torch.no_grad()
def test_a_prediction_does_not_depend_on_what_else_is_in_the_batch(trained, name):
    model, plugin, *_, together, images = trained(name)
    model.eval()
    order = torch.randperm(len(images))
    if name in PER_TASK:
        with plugin.pool.using(None):
            distances = plugin.router.distances(model.encode_image_plain(images))
        # A border lies on a sample that was trained on, and of that one the last bit decides.
        order = order[((distances - 1).abs() > 1e-4).all(1)[order]]
        assert len(order) > len(images) - 4
    for size, tried in ((1, order[:10]), (7, order)):
        for rows in tried.split(size):
            torch.testing.assert_close(model(images[rows]), together[-1][rows], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", PER_TASK)
@torch.no_grad()
def test_strangers_get_the_pretrained_logits_and_old_tasks_keep_theirs(trained, name):
    model, plugin, _, before, (first, second), images = trained(name)
    with plugin.pool.using(None):
        features = model.encode_image_plain(images)
    route = plugin.router.score(features)
    outside, task = route.is_out_of_distribution, route.task
    assert outside[-2 * N :].sum() > N and set(task[~outside].tolist()) == {0, 1}
    assert (second[outside] - before[outside]).abs().max() < 1e-5
    assert torch.equal(second[outside].argmax(1), before[outside].argmax(1))
    inside = ~outside & (task == 0)
    torch.testing.assert_close(second[inside], first[inside], atol=1e-4, rtol=1e-5)
    assert (second[~outside] - before[~outside]).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("name", SHARED)
@torch.no_grad()
def test_the_one_module_works_always_and_later_tasks_change_it(trained, name):
    model, plugin, _, before, (first, second), images = trained(name)
    assert plugin.pool.names == ["shared"]
    for mode in (True, False):
        assert model.train(mode) is model and plugin.pool.active == "shared"
    assert (first - before).abs().amax(1).min() > 1e-3 and (second - first).abs().amax(1).min() > 1e-3
    plugin.pool.activate(None)
    torch.testing.assert_close(model(images), before, atol=1e-6, rtol=0)
    plugin.pool.activate("shared")
    torch.testing.assert_close(model(images), second, atol=1e-6, rtol=0)


@torch.no_grad()
def test_dikis_images_have_the_weight_of_their_likelihood(trained):
    model, plugin, *_, images = trained("diki")
    assert isinstance(model.routed, CalibratedPool)
    with plugin.pool.using(None):
        features = model.encode_image_plain(images)
    route = plugin.router.score(features)
    row = int((~route.is_out_of_distribution & (route.task == 1)).nonzero()[0])
    weight = torch.sigmoid(plugin.router.log_likelihood(features)[row, 1] / 128 - 1)
    seen = []
    layer = model.routed.layers[0]
    handle = layer.register_forward_pre_hook(lambda *_: seen.append((plugin.pool.active, layer.strength)))
    model(images[row : row + 1])
    handle.remove()
    assert seen[0] == (None, 1.0) and seen[1][0] == "task_1"
    torch.testing.assert_close(seen[1][1], weight[None])


def test_the_optimizer_may_come_before_or_after_the_shared_module(tiny_benchmark):
    model = tiny_vlm("random")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    plugin = SharedModulePlugin(model, named("text", inject_text_prompts(model, length=2)))
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=32,
        plugins=[plugin],
        evaluator=None,
    )
    (vectors,) = plugin.pool.parameters("shared")
    start = vectors.detach().clone()
    strategy.train(tiny_benchmark.train_stream[0])
    assert (vectors - start).abs().max() > 1e-3
    with pytest.raises(InputError, match="text path is taken by a learned context of texts"):
        build("coop", model=model)
