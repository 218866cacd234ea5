"""Routers place samples one by one, and know when to stay out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers import PrototypeRouter

WIDTH = 24


def task(seed: int, n: int = 400, classes: int = 4, draw: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length features around class centres that share a direction, the task's own."""
    generator = torch.Generator().manual_seed(seed)
    base = 3 * torch.randn(WIDTH, generator=generator)
    centres = base + torch.randn(classes, WIDTH, generator=generator)
    generator.manual_seed(1000 * seed + draw)
    y = torch.randint(classes, (n,), generator=generator)
    return F.normalize(centres[y] + 0.3 * torch.randn(n, WIDTH, generator=generator), dim=1), y


@pytest.fixture
def router():
    router = PrototypeRouter(quantile=0.95)
    for seed in range(3):
        router.fit(*task(seed))
    return router


def test_fresh_samples_find_their_task(router):
    for seed in range(3):
        route = router.score(task(seed, draw=1)[0])
        assert (route.task == seed).float().mean() > 0.99
        inside = 1 - route.is_out_of_distribution.float().mean()
        assert 0.88 < inside < 0.99
        assert (route.confidence > 0).all() and (route.confidence <= 1).all()


def test_strangers_are_out_of_distribution(router):
    assert router.score(task(7)[0]).is_out_of_distribution.float().mean() > 0.99


def test_a_larger_quantile_lets_more_in():
    shares = []
    for quantile in (0.5, 0.8, 0.99):
        router = PrototypeRouter(quantile=quantile)
        router.fit(*task(0))
        shares.append(1 - router.score(task(0, draw=1)[0]).is_out_of_distribution.float().mean().item())
    assert shares == sorted(shares)
    assert shares == pytest.approx([0.5, 0.8, 0.99], abs=0.12)


def test_a_score_does_not_depend_on_the_batch(router):
    features = torch.cat([task(seed, 20, draw=2)[0] for seed in range(4)])
    together = router.score(features)
    alone = [router.score(features[i : i + 1]) for i in range(len(features))]
    assert torch.equal(together.task, torch.cat([a.task for a in alone]))
    assert torch.equal(together.is_out_of_distribution, torch.cat([a.is_out_of_distribution for a in alone]))
    torch.testing.assert_close(together.confidence, torch.cat([a.confidence for a in alone]), atol=1e-5, rtol=0)


def test_many_labels_become_cluster_centres():
    features, _ = task(0)
    router = PrototypeRouter(max_prototypes=8)
    router.fit(features, torch.arange(len(features)))
    assert router.prototypes_0.shape[0] == 8
    assert not router.score(task(0, draw=1)[0]).is_out_of_distribution.float().mean() > 0.2


def test_the_account_and_the_state_hold_every_task(router):
    assert router.stored().ram == sum(b.numel() * 4 for b in router.buffers()) > 0
    assert len(router) == 3 and len(router.state_dict()) == 6


def test_too_few_samples():
    with pytest.raises(InputError, match="at least ten samples of a task, task 0 has 5"):
        PrototypeRouter().fit(torch.randn(5, WIDTH), torch.zeros(5))
