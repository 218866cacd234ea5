"""Adapters per task and mixtures of experts, in Avalanche's own ``Naive``."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import pytest
import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from made import tiny as tiny_vlm
from torch.utils.data import DataLoader

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import stored_bytes, tensor_bytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.experts import ExpertSite
from avalanche_vlm.models.routers import AutoencoderRouter, PrototypeRouter
from avalanche_vlm.training import VLMNaive, criterion_for, recipes
from avalanche_vlm.training.plugins.experts import SharedExpertsPlugin
from avalanche_vlm.training.recipes.adaptation import adapters

assert adapters  # importing registers the recipes

LESS = {
    "adapter-per-task": {"bottleneck": 8},
    "moe-adapters": {"experts": 5, "bottleneck": 4, "freeze": 1, "router": "prototype"},
}
RUNS = [(name, kind) for name in LESS for kind in recipes.get(name).kinds]


class Watch(SupervisedPlugin):
    """What the parameters were before and after every task, and what had a gradient in every step."""

    supports_distributed = True

    def __init__(self) -> None:
        super().__init__()
        self.started, self.ended, self.reached = [], [], []

    def before_training_exp(self, strategy, **kwargs):
        self.started.append(weights(strategy.model))

    def after_backward(self, strategy, **kwargs):
        self.reached.append({n for n, p in strategy.model.named_parameters() if p.grad is not None})

    def after_training_exp(self, strategy, **kwargs):
        self.ended.append(weights(strategy.model))


def weights(model: VLM) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, p in after.items() if not torch.equal(p, before[name])}


class Run(NamedTuple):
    model: VLM
    plain: VLM
    plugins: list[SupervisedPlugin]
    watch: Watch


def train(name: str, kind: str, benchmark, **options) -> Run:
    """A stream of two tasks with small options, from the shipped weights."""
    torch.manual_seed(0)
    model, plain = tiny_vlm(), tiny_vlm()
    plugins = recipes.build(name, model=model, **{**LESS[name], **options})
    watch = Watch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = Naive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
            criterion=criterion_for(kind, model),
            train_mb_size=32,
            eval_mb_size=64,
            plugins=[*plugins, watch],
            evaluator=None,
        )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    if kind == "classes":
        plain.set_label_space(model.label_space)
    return Run(model.eval(), plain.eval(), plugins, watch)


@pytest.fixture(scope="module")
def trained(tiny_benchmark, tiny_pairs):
    """Each recipe on each kind of stream, trained once."""
    return {(n, k): train(n, k, tiny_benchmark if k == "classes" else tiny_pairs) for n, k in RUNS}


def pictures(benchmark) -> torch.Tensor:
    """Eight of each task, and as many of noise."""
    images = []
    for experience in benchmark.train_stream:
        x, *_ = next(iter(DataLoader(experience.dataset.eval(), batch_size=8)))
        images.append(x if isinstance(x, torch.Tensor) else x.image)
    noise = torch.randn(8, *images[0].shape[1:], generator=torch.Generator().manual_seed(1))
    return torch.cat([*images, noise])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), RUNS)
@torch.no_grad()
def test_strangers_are_answered_by_the_pretrained_model(trained, tiny_benchmark, tiny_pairs, name, kind):
    model, plain, *_ = trained[name, kind]
    images = pictures(tiny_benchmark if kind == "classes" else tiny_pairs)
    with model.routed.pool.using(None):
        route = model.routed.router.score(model.encode_image_plain(images))
    stranger = route.is_out_of_distribution
    assert stranger.any() and set(route.task[~stranger].tolist()) == {0, 1}
    got, expected = model.encode_image(images), plain.encode_image(images)
    torch.testing.assert_close(got[stranger], expected[stranger], atol=1e-6, rtol=0)
    assert (got - expected)[~stranger].abs().amax(1).min() > 1e-3
    if kind == "classes":
        got, expected = model(images), plain(images)
        torch.testing.assert_close(got[stranger], expected[stranger], atol=1e-5, rtol=0)
        assert torch.equal(got[stranger].argmax(1), expected[stranger].argmax(1))
        order = torch.randperm(len(images))
        torch.testing.assert_close(model(images[order]), got[order], atol=1e-4, rtol=0)
        for i in (0, 9, 20):
            torch.testing.assert_close(model(images[i : i + 1]), got[i : i + 1], atol=1e-4, rtol=0)
        classes, texts = torch.arange(len(model.label_space)), []
        for task in (None, *model.routed.pool.names):
            with model.routed.pool.using(task):
                texts.append(model.prompt_features(classes))
        torch.testing.assert_close(texts[0], plain.prompt_features(classes), atol=1e-6, rtol=0)
        # A mixture adapts texts too, each gate in its own way; adapters in the image tower do not.
        for one, other in ((0, 1), (0, 2), (1, 2)):
            far = (texts[one] - texts[other]).abs().max()
            assert far > 1e-4 if name == "moe-adapters" else far == 0


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_a_task_moves_its_own_module_and_free_experts_alone(trained, name, kind):
    watch = trained[name, kind].watch
    for task in range(2):
        changed = moved(watch.started[task], watch.ended[task])
        assert changed and all(f".bank.task_{task}." in n or ".experts." in n for n in changed)
        assert any(".experts." in n for n in changed) == (name == "moe-adapters")
    for names in watch.reached:
        assert names and all(".bank.task_" in n or ".experts." in n for n in names)


def sites(model: VLM) -> list[tuple[str, ExpertSite]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, ExpertSite)]


def owner(name: str) -> tuple[str, int]:
    """The site and the number of the expert that a parameter belongs to."""
    site, _, rest = name.partition(".experts.")
    return site, int(rest.split(".")[0])


@pytest.mark.slow
@pytest.mark.parametrize("strategy_class", [Naive, VLMNaive])
def test_weight_decay_and_momentum_touch_no_expert_that_nobody_chose(tiny_benchmark, strategy_class):
    model, steps = tiny_vlm(), []

    class Steps(SupervisedPlugin):
        supports_distributed = True

        def before_update(self, strategy, **kwargs):
            self.before = weights(strategy.model)
            # A gate that left the optimizer keeps the gradient of its last step.
            trained = strategy.model.trainable_parameters()
            self.reached = {name for name, p in trained.items() if p.grad is not None}

        def after_update(self, strategy, **kwargs):
            steps.append((self.reached, moved(self.before, weights(strategy.model))))

    # So many experts that a batch does not choose all of them.
    options = LESS["moe-adapters"] | {"experts": 24, "bottleneck": 2, "k": 1}
    strategy = strategy_class(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.5),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=32,
        plugins=[*recipes.build("moe-adapters", model=model, **options), Steps()],
        evaluator=None,
    )
    for experience in tiny_benchmark.train_stream:
        strategy.train(experience)
    every, earlier = {(name, e) for name, _ in sites(model) for e in range(24)}, set()
    assert len(steps) == 4
    for task, (reached, changed) in zip((0, 0, 1, 1), steps, strict=True):
        assert changed <= reached
        assert all(".experts." in n or f".bank.task_{task}." in n for n in reached)
        # Both layers of a chosen expert move: biases and weights, from zero too.
        chosen = {owner(n) for n in reached if ".experts." in n}
        assert {owner(n) for n in changed if ".experts." in n} == chosen < every
        # Some had momentum from before and still stayed where they were.
        assert not earlier or earlier - chosen
        earlier |= chosen


def test_what_the_first_task_used_most_is_frozen_in_the_second(tiny_benchmark):
    torch.manual_seed(0)
    model = tiny_vlm()
    plugins = recipes.build("moe-adapters", model=model, **LESS["moe-adapters"])
    usage = {}

    class Note(SupervisedPlugin):
        supports_distributed = True

        def after_training_exp(self, strategy, **kwargs):
            usage[len(usage)] = {name: site.usage.clone() for name, site in sites(strategy.model)}

    watch = Watch()
    strategy = VLMNaive(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=32,
        plugins=[*plugins, Note(), watch],
        evaluator=None,
    )
    first, second = tiny_benchmark.train_stream
    strategy.train(first)
    most = {name: int(used.argmax()) for name, used in usage[0].items()}
    assert all(site.frozen.nonzero()[:, 0].tolist() == [most[name]] for name, site in sites(model))
    assert all(int(used.sum()) == 2 * 64 for name, used in usage[0].items() if ".visual." in name)  # k = 2, 64 pictures
    strategy.train(second)
    changed = {owner(n) for n in moved(watch.started[1], watch.ended[1]) if ".experts." in n}
    assert not changed & set(most.items()) and {name for name, _ in changed} == set(most)
    # Experts that were used before and are free go on training: old tasks drift there.
    used_before = {(name, e) for name, used in usage[0].items() for e in used.nonzero()[:, 0].tolist()}
    assert changed & used_before
    held = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    for (name, expert), site in ((item, dict(sites(model))[item[0]]) for item in most.items()):
        assert not held & {id(p) for p in site.experts[expert].parameters()}, name


def test_the_load_balance_is_in_the_loss(tiny_benchmark):
    seen = {}

    class Losses(SupervisedPlugin):
        supports_distributed = True

        def before_backward(self, strategy, **kwargs):
            task = strategy._criterion(strategy.mb_output, strategy.mb_y)
            seen.setdefault("extra", []).append((strategy.loss - task).item())

        def after_forward(self, strategy, **kwargs):
            balances = [b for _, site in sites(strategy.model) for b in site.balances or ()]
            seen.setdefault("balance", []).append((len(balances), sum(b.item() for b in balances)))

    for weight in (0.25, 0.0):
        seen.clear()
        torch.manual_seed(0)
        model = tiny_vlm()
        strategy = Naive(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
            criterion=torch.nn.CrossEntropyLoss(),
            train_mb_size=32,
            plugins=[*recipes.build("moe-adapters", model=model, **LESS["moe-adapters"], balance=weight), Losses()],
            evaluator=None,
        )
        strategy.train(tiny_benchmark.train_stream[0])
        assert len(seen["extra"]) == 2
        for extra, (count, balance) in zip(seen["extra"], seen["balance"], strict=True):
            assert count == (4 + 3 if weight else 0)
            assert (balance > 0.01) == bool(weight) and extra == pytest.approx(weight * balance, abs=1e-4)
        assert all(site.balances is None for _, site in sites(model))


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_the_account_holds_modules_experts_and_router(trained, name, kind):
    model, _, plugins, _ = trained[name, kind]
    added = {n: t for n, t in model.clip.state_dict().items() if "_adapters." in n or "_experts." in n}
    router = tensor_bytes(model.routed.router.buffers())
    assert stored_bytes(plugins).total == tensor_bytes(added.values()) + router > 0


def test_published_defaults():
    moe, adapter = recipes.get("moe-adapters"), recipes.get("adapter-per-task")
    assert moe.settings | {"balance": 0} == moe.settings | {"balance": 0, "experts": 22, "bottleneck": 64, "k": 2}
    assert (moe.settings["scale"], moe.settings["dropout"], moe.settings["freeze"]) == (0.1, 0.1, 2)
    assert moe.kinds == ("classes",) and adapter.kinds == ("classes", "pairs")
    assert (adapter.settings["bottleneck"], adapter.settings["scale"]) == (64, 0.1)
    model = tiny_vlm()
    recipes.build("moe-adapters", model=model)
    assert isinstance(model.routed.router, AutoencoderRouter)
    assert [len(site.experts) for _, site in sites(model)] == [22] * 7
    model = tiny_vlm()
    recipes.build("adapter-per-task", model=model, kind="sequential", quantile=0.9)
    assert isinstance(model.routed.router, PrototypeRouter) and model.routed.router.quantile == 0.9


def test_wrong_settings_are_named_before_anything_changes():
    model = tiny_vlm()
    keys = set(model.state_dict())
    with pytest.raises(InputError, match="no router is called 'nearest'"):
        recipes.build("moe-adapters", model=model, router="nearest")
    with pytest.raises(InputError, match="a sample cannot have 2 of 1 experts"):
        recipes.build("moe-adapters", model=model, experts=1)
    assert set(model.state_dict()) == keys and model.routed is None
    with pytest.raises(InputError, match="weight of the load balance is 0 or more, not -1"):
        SharedExpertsPlugin({}, balance=-1)
    with pytest.raises(InputError, match=r"number of experts that freeze is a whole number of 0 or more, not 0\.5"):
        SharedExpertsPlugin({}, freeze=0.5)
