"""The routed way through a pool of modules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from made import tiny as tiny_vlm
from pools import filled
from routing import task

from avalanche_vlm.benchmarks import LabelSpace
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.routers import PrototypeRouter, Route


@pytest.fixture
def routed():
    tower, pool = filled("task_0", "task_1")
    router = PrototypeRouter()
    for seed in range(2):
        router.fit(*task(seed))
    return tower, pool, RoutedPool(pool, router).eval()


def through(path: RoutedPool, tower, x: torch.Tensor, labels=None) -> torch.Tensor:
    """The groups put together."""
    whole = torch.full_like(x, float("nan"))
    for rows, features in path.groups(tower, x, labels):
        whole[rows] = features
    return whole


@torch.no_grad()
def test_grouped_inference_equals_one_by_one_and_strangers_get_the_plain_features(routed):
    tower, pool, path = routed
    x = torch.cat([task(seed, 15, draw=1)[0] for seed in (0, 7, 1)])
    together = through(path, tower, x)
    alone = torch.cat([through(path, tower, x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    with pool.using(None):
        plain = tower(x)
    route = path.router.score(F.normalize(plain, dim=1))
    assert route.is_out_of_distribution[15:30].float().mean() > 0.9
    assert torch.equal(together[route.is_out_of_distribution], plain[route.is_out_of_distribution])
    for seed in range(2):
        rows = (route.task == seed) & ~route.is_out_of_distribution
        assert rows.sum() > 5
        with pool.using(f"task_{seed}"):
            torch.testing.assert_close(together[rows], tower(x[rows]), atol=1e-6, rtol=1e-5)
        assert (together[rows] - plain[rows]).abs().max() > 0.1


@torch.no_grad()
def test_a_group_runs_once_and_its_module_is_active_meanwhile(routed):
    tower, pool, path = routed
    sizes = []

    def encode(x: torch.Tensor) -> torch.Tensor:
        sizes.append((pool.active, len(x)))
        return tower(x)

    x = torch.cat([task(seed, 15, draw=1)[0] for seed in (0, 1, 0)])
    names = [pool.active for _ in path.groups(encode, x)]
    # Everything once through the plain tower, which is all that strangers need, and each task's samples once more.
    assert sizes[0] == (None, 45) and sorted(sizes[1:]) == sorted((n, c) for n, c in sizes[1:] if n) and len(sizes) == 3
    assert set(names) >= {"task_0", "task_1"} and pool.active is None


@torch.no_grad()
def test_training_uses_the_current_module_on_everything(routed):
    tower, pool, path = routed
    x, _ = task(0, 5)
    assert pool.active is None
    path.train()
    assert pool.active == "task_1" and torch.equal(through(path, tower, x), tower(x))
    path.eval()
    assert pool.active is None


@torch.no_grad()
def test_an_oracle_goes_by_the_task_label(routed):
    tower, pool, path = routed
    path.use_task_labels, path.of_label = True, {4: "task_0", 6: "task_1"}
    x, _ = task(0, 4)
    got = through(path, tower, x, torch.tensor([6, 4, 9, 6]))
    for name, rows in (("task_0", [1]), ("task_1", [0, 3]), (None, [2])):
        with pool.using(name):
            torch.testing.assert_close(got[rows], tower(x)[rows], atol=1e-6, rtol=1e-5)
    assert torch.equal(through(path, tower, x), through(path, tower, x, 9))  # without a label: no module


@torch.no_grad()
def test_an_empty_router_leaves_everything_to_the_plain_tower(routed):
    tower, pool, _ = routed
    x, _ = task(0, 5)
    path = RoutedPool(pool, PrototypeRouter()).eval()
    assert torch.equal(through(path, tower, x), tower(x))


@torch.no_grad()
def test_a_task_keeps_its_module_whatever_becomes_of_others(routed):
    tower, pool, path = routed
    x, _ = task(1, 20)
    plain = F.normalize(tower(x), dim=1)
    before = path.route(plain)
    assert "task_1" in before
    pool.share("another name", of="task_0")
    pool.drop("task_0")
    assert path.route(plain) == [None if name == "task_0" else name for name in before]
    pool.drop("task_1")
    assert not any(name == "task_1" for name in path.route(plain))


@torch.no_grad()
def test_an_oracle_leaves_the_task_of_a_dropped_module_to_the_plain_tower(routed):
    tower, pool, path = routed
    x, _ = task(1, 6)
    path.use_task_labels, path.of_label = True, {0: "task_0", 1: "task_1"}
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    before = through(path.eval(), tower, x, labels)
    pool.drop("task_0")
    after = through(path, tower, x, labels)
    torch.testing.assert_close(after[1::2], before[1::2])
    torch.testing.assert_close(after[::2], tower(x[::2]))


class ByBrightness:
    """Light pictures belong to task 0, dark ones to task 1, and those between to none."""

    def __len__(self) -> int:
        return 2

    def score(self, features: torch.Tensor) -> Route:
        order = self.brightness
        return Route((order < 0).long(), torch.ones(len(order)), order.abs() < 0.5)


@torch.no_grad()
def test_a_vlm_answers_every_group_with_the_texts_of_its_module():
    model = tiny_vlm()
    space = LabelSpace.from_names(["circle", "star", "fox", "heart"])
    model.set_label_space(space)
    images = torch.randn(6, 3, 32, 32)
    plain = model.eval()(images)
    model.freeze("image", "text")
    sites = named("image", inject_lora(model.tower("image"), rank=2)) | named(
        "text", inject_lora(model.tower("text"), rank=2)
    )
    pool, router = ModulePool(sites), ByBrightness()
    router.brightness = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 0.0])
    for name in ("light", "dark"):
        pool.add(name)
        for parameter in pool.parameters(name):
            torch.nn.init.normal_(parameter, std=0.2)
    model.routed = RoutedPool(pool, router)
    model.eval()
    mixed = model(images)
    torch.testing.assert_close(mixed[[2, 5]], plain[[2, 5]], atol=1e-5, rtol=0)
    assert torch.equal(mixed[[2, 5]].argmax(1), plain[[2, 5]].argmax(1))
    texts = []
    for name, rows in (("light", [0, 3]), ("dark", [1, 4])):
        with pool.using(name):
            features = F.normalize(model.encode_image_plain(images[rows]), dim=1)
            texts.append(torch.cat([model.encode_text(model.tokenize(p)) for p in space.prompts()]))
        torch.testing.assert_close(mixed[rows], model.similarity(features, texts[-1]), atol=1e-4, rtol=1e-4)
    assert (texts[0] - texts[1]).abs().max() > 1e-2
    # Texts are encoded once for each module, and anew when one of its weights changes.
    calls = []
    inner = model.encode_text
    model.encode_text = lambda tokens, **how: calls.append(pool.active) or inner(tokens, **how)
    assert torch.equal(model(images), mixed) and calls == []
    next(pool.parameters("dark")).add_(0.0)
    pool_sites = [where for where in pool.sites if where.startswith("text.")]
    pool.sites[pool_sites[0]].bank["dark"]["q"].A.add_(1.0)
    assert not torch.equal(model(images), mixed) and calls == ["dark"]
    # Modules follow the strategy's mode, though their towers are frozen.
    model.train()
    assert all(part.training for name in pool.names for part in pool.module(name).values())
    assert not model.clip.visual.transformer.resblocks[0].training
