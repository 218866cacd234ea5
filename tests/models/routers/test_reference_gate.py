"""A gate that knows what out-of-distribution samples look like."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers import KMeansRouter, ReferenceGate
from avalanche_vlm.weights.average import snapshot

WIDTH = 24


def cloud(seed: int, n: int, draw: int = 0) -> torch.Tensor:
    """Unit-length features in a wide cloud of their own; clouds overlap."""
    generator = torch.Generator().manual_seed(seed)
    centre = 0.5 * torch.randn(WIDTH, generator=generator)
    generator.manual_seed(1000 * seed + draw)
    return F.normalize(centre + 0.8 * torch.randn(n, WIDTH, generator=generator), dim=1)


def labels(features: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(features), dtype=torch.long)


def fitted(tasks: int = 3, **options) -> ReferenceGate:
    gate = ReferenceGate(KMeansRouter(), cloud(9, 1000), hidden=64, **options)
    for seed in range(tasks):
        gate.fit(cloud(seed, 300), labels(cloud(seed, 300)))
    return gate


@pytest.mark.parametrize("ood_accepted", [0.02, 0.1, 0.3])
def test_as_many_of_the_reference_kind_as_promised_come_in(ood_accepted):
    gate = fitted(ood_accepted=ood_accepted, margin=0.0)
    held = gate.reference[:200]
    let_in = ~gate.score(held).is_out_of_distribution
    assert let_in.sum() == int(ood_accepted * 200)  # over all tasks together
    fresh = ~gate.score(cloud(9, 4000, draw=1)).is_out_of_distribution
    # Of 200 held-out ones: three standard deviations of the rate.
    assert abs(fresh.float().mean() - ood_accepted) < 3 * (ood_accepted * (1 - ood_accepted) / 200) ** 0.5 + 0.01


def test_the_margin_keeps_more_out():
    strict, plain = fitted(ood_accepted=0.1, margin=0.2), fitted(ood_accepted=0.1, margin=0.0)
    assert strict.threshold == pytest.approx(plain.threshold.item() + 0.2)
    strangers = cloud(9, 2000, draw=1)
    in_, plainly_in = (~gate.score(strangers).is_out_of_distribution for gate in (strict, plain))
    assert 0 < in_.sum() < 0.7 * plainly_in.sum() and not (in_ & ~plainly_in).any()


def test_its_own_samples_come_in_where_a_threshold_keeps_fewer_strangers_out():
    gate = fitted(ood_accepted=0.05)
    own = torch.cat([cloud(seed, 500, draw=1) for seed in range(3)])
    strangers = cloud(9, 2000, draw=1)
    mine = 1 - gate.score(own).is_out_of_distribution.float().mean()
    assert 0.5 < mine < 1
    # The router's own thresholds at the same cost to its own samples.
    router = copy.deepcopy(gate.router)
    router.calibrate([cloud(seed, 500, draw=2) for seed in range(3)], 1 - float(mine))
    threshold = 1 - router.score(strangers).is_out_of_distribution.float().mean()
    assert 1 - gate.score(strangers).is_out_of_distribution.float().mean() < 0.5 * threshold


def test_the_router_chooses_the_task():
    gate = fitted()
    x = cloud(1, 50, draw=3)
    route, inner = gate.score(x), gate.router.score(x)
    assert torch.equal(route.task, inner.task) and torch.equal(route.confidence, inner.confidence)
    assert len(gate) == len(gate.router) == 3


def test_the_weights_are_those_of_the_weighted_regression():
    gate = fitted(1, ridge=0.05)
    own, strangers = gate._inputs(cloud(0, 300)).double(), gate._inputs(gate.reference[200:]).double()
    x = torch.cat([own, strangers])
    y = torch.cat([torch.ones(300), -torch.ones(800)]).double()
    weight = torch.cat([torch.full((300,), 0.5 / 300), torch.full((800,), 0.5 / 800)]).double()
    root = weight.sqrt()[:, None]
    penalty = 0.05 * (weight[:, None] * x.square()).sum(0).mean()
    stacked = torch.cat([root * x, penalty.sqrt() * torch.eye(x.shape[1]).double()])
    target = torch.cat([root[:, 0] * y, torch.zeros(x.shape[1]).double()])
    expected = torch.linalg.lstsq(stacked, target).solution
    torch.testing.assert_close(gate.weights[:, 0], expected.float(), atol=1e-4, rtol=1e-3)


def test_samples_are_placed_one_by_one():
    gate = fitted()
    x = torch.cat([cloud(seed, 20, draw=4) for seed in (0, 1, 2, 9)])
    route = gate.score(x)
    for i in range(0, len(x), 7):
        one = gate.score(x[i : i + 1])
        assert one.task == route.task[i] and one.is_out_of_distribution == route.is_out_of_distribution[i]


def test_what_is_not_a_number_stays_out():
    x = cloud(0, 3, draw=1)
    x[1, 2] = float("nan")
    assert fitted().score(x).is_out_of_distribution[1]


def test_it_holds_what_it_says():
    gate = fitted()
    held = sum(t.numel() * t.element_size() for t in gate.buffers())
    assert gate.stored().total == held


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ood_accepted": 0.0}, "ood_accepted"),
        ({"hidden": 0}, "hidden"),
        ({"ridge": 0.0}, "ridge is positive"),
        ({"margin": -1.0}, "margin not negative"),
    ],
)
def test_options_out_of_their_range(options, said):
    with pytest.raises(InputError, match=said):
        ReferenceGate(KMeansRouter(), cloud(9, 50), **options)


def test_too_small_a_reference():
    with pytest.raises(InputError, match="at least ten reference samples, not 9"):
        ReferenceGate(KMeansRouter(), cloud(9, 9))


def test_a_fit_that_fails_leaves_it_as_it_was():
    gate = fitted(1)
    before = snapshot(gate.state_dict())
    with pytest.raises(InputError, match="ten samples"):
        gate.fit(cloud(1, 5), labels(cloud(1, 5)))
    assert all(torch.equal(before[name], value) for name, value in snapshot(gate.state_dict()).items())
