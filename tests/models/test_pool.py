"""The routed way through a pool of modules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_routers import task

from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.pool import ModulePool, RoutedPool
from avalanche_vlm.models.routers import PrototypeRouter


class Tower(torch.nn.Module):
    """Passes features on through one linear layer that starts as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(24, 24)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(24))
            self.layer.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.fixture
def routed():
    tower = Tower()
    pool, router = ModulePool(inject_lora(tower, rank=2, pattern="layer")), PrototypeRouter()
    for seed in range(2):
        pool.add(f"task_{seed}")
        for parameter in pool.parameters(f"task_{seed}"):
            torch.nn.init.normal_(parameter)
        router.fit(*task(seed))
    return tower, pool, RoutedPool(pool, router).eval()


@torch.no_grad()
def test_grouped_inference_equals_one_by_one_and_strangers_get_the_plain_features(routed):
    tower, pool, path = routed
    x = torch.cat([task(seed, 15, draw=1)[0] for seed in (0, 7, 1)])
    together = path(tower, x)
    alone = torch.cat([path(tower, x[i : i + 1]) for i in range(len(x))])
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
def test_training_uses_the_active_module_on_everything(routed):
    tower, pool, path = routed
    x, _ = task(0, 5)
    path.train()
    pool.activate("task_1")
    assert torch.equal(path(tower, x), tower(x))


def test_adding_a_module_freezes_the_others(routed):
    _, pool, _ = routed
    assert not any(p.requires_grad for p in pool.parameters("task_0"))
    assert all(p.requires_grad for p in pool.parameters("task_1"))
    assert pool.nbytes() == 2 * (24 * 2 + 2 * 24) * 4


@torch.no_grad()
def test_an_empty_router_leaves_everything_to_the_plain_tower(routed):
    tower, pool, _ = routed
    x, _ = task(0, 5)
    path = RoutedPool(pool, PrototypeRouter()).eval()
    with pool.using(None):
        assert torch.equal(path(tower, x), tower(x))
