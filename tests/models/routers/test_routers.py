"""What all routers share: samples are placed one by one, and thresholds let in what they promise."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from routing import WIDTH, task
from scipy.stats import betabinom

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers import CalibratedRouter, Route, achieved_rates, create_router, list_routers
from avalanche_vlm.models.routers.calibration import upper_quantile

OPTIONS = {"autoencoder": {"steps": 60}}


def create(name: str, **options) -> CalibratedRouter:
    return create_router(name, **OPTIONS.get(name, {}) | options)


def same(a: Route, b: Route) -> None:
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def fitted() -> dict[str, CalibratedRouter]:
    """Every router after three tasks."""
    routers = {name: create(name) for name in list_routers()}
    for router in routers.values():
        for seed in range(3):
            router.fit(*task(seed))
    return routers


@pytest.fixture(params=list_routers())
def router(request, fitted) -> CalibratedRouter:
    """One of them, to do with as one likes."""
    return copy.deepcopy(fitted[request.param])


@pytest.fixture
def kind(router) -> str:
    return next(name for name in list_routers() if type(router) is type(create(name)))


def test_fresh_samples_find_their_task(router):
    for seed in range(3):
        route = router.score(task(seed, draw=1)[0])
        assert (route.task == seed).float().mean() > 0.97
        inside = 1 - route.is_out_of_distribution.float().mean()
        assert 0.88 < inside <= 1
        assert (route.confidence > 0.3).all() and (route.confidence <= 1).all()


def test_strangers_are_out_of_distribution(router):
    assert router.score(task(7)[0]).is_out_of_distribution.float().mean() > 0.97


def test_what_is_not_a_number_is_out_of_distribution(router):
    features = task(0, 3, draw=1)[0]
    features[1, 2] = float("nan")
    assert router.score(features).is_out_of_distribution[1]


def test_a_score_does_not_depend_on_the_batch(router):
    features = torch.cat([task(seed, 20, draw=2)[0] for seed in range(4)])
    together = router.score(features)
    alone = [router.score(features[i : i + 1]) for i in range(len(features))]
    assert torch.equal(together.task, torch.cat([a.task for a in alone]))
    assert torch.equal(together.is_out_of_distribution, torch.cat([a.is_out_of_distribution for a in alone]))
    torch.testing.assert_close(together.confidence, torch.cat([a.confidence for a in alone]), atol=1e-4, rtol=0)


def beyond(router: CalibratedRouter, seed: int, n: int) -> int:
    """How many fresh samples of a task lie beyond its own threshold."""
    return int((router.distances(task(seed, n, draw=1)[0])[:, seed] > 1).sum())


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01])
def test_thresholds_meet_their_target_on_fresh_samples_within_the_error_of_sampling(router, rate):
    n, held = 1500, 900
    router.calibrate([task(seed, held, draw=5)[0] for seed in range(3)], rate)
    # If the threshold is the k-th of h samples, the share beyond it has a Beta(h + 1 - k, k) distribution.
    k = math.ceil((held + 1) * (1 - rate) - 1e-9)
    law = betabinom(n, held + 1 - k, k)
    for seed in range(3):
        assert law.ppf(5e-5) <= beyond(router, seed, n) <= law.ppf(1 - 5e-5)


@pytest.mark.parametrize("kind", ["prototype", "kmeans", "gaussian", "mixture", "top-prototypes"])
def test_the_threshold_of_a_fit_meets_its_target_too(kind):
    """Calibrated on the samples that were fitted, it would turn away far more."""
    router = create(kind, quantile=0.8)
    for seed in range(3):
        router.fit(*task(seed, 200))
    law = betabinom(1500, 41 - 33, 33)
    for seed in range(3):
        assert law.ppf(5e-4) <= beyond(router, seed, 1500) <= law.ppf(1 - 5e-4)


def test_samples_kept_out_are_drawn_by_chance_and_not_by_turns():
    """Of a cycle of five classes every fifth sample is of one class: the others would be strangers to its threshold."""
    labels = torch.arange(500) % 5
    features = F.normalize(torch.eye(5, WIDTH)[labels] + 0.05 * torch.randn(500, WIDTH), dim=1)
    for order in (labels.argsort(stable=True), torch.arange(500)):
        router = create("kmeans")
        router.fit(features[order], labels[order])
        strangers = F.normalize(features[:100] + 0.2 * torch.randn(100, WIDTH), dim=1)
        assert router.score(strangers).is_out_of_distribution.all()
        assert router.score(features).is_out_of_distribution.float().mean() < 0.2


def test_distances_are_0_in_the_middle_and_1_on_the_threshold(router):
    held = [task(seed, 99, draw=6)[0] for seed in range(3)]
    router.calibrate(held, 0.1)
    for seed, features in enumerate(held):
        own = router.distances(features)[:, seed].sort().values
        torch.testing.assert_close(own[[49, 89]], torch.tensor([0.0, 1.0]), atol=1e-4, rtol=0)
    assert router.quantile == pytest.approx(0.9)


def test_calibration_needs_held_out_features_of_every_task(router):
    features, before = task(0)[0], pickle.dumps(router.state_dict())
    for held, rate, message in (
        ([features] * 2, 0.1, "knows 3 tasks, and got held-out features of 2"),
        ([features, features, features[:0]], 0.1, "task 2 has no held-out features"),
        ([features] * 3, 1.0, "false_positive_rate is a share between 0 and 1, not 1.0"),
    ):
        with pytest.raises(InputError, match=message):
            router.calibrate(held, rate)
    assert pickle.dumps(router.state_dict()) == before and router.quantile == 0.95


def test_achieved_rates_are_shares_of_samples(router):
    own = [task(seed, 60, draw=3)[0] for seed in range(3)]
    own[1] = torch.cat([own[1][:40], own[2][:12], task(7, 8)[0]])
    strangers = torch.cat([task(7, 30)[0], own[0][:10]])
    rates = achieved_rates([router.score(features) for features in own], router.score(strangers))
    for seed, features in enumerate(own):
        away = misplaced = 0
        for sample in features:
            route = router.score(sample[None])
            away += bool(route.is_out_of_distribution)
            misplaced += not route.is_out_of_distribution and int(route.task) != seed
        assert rates.turned_away[seed].item() == pytest.approx(away / 60)
        assert rates.misplaced[seed].item() == pytest.approx(misplaced / 60)
    assert 0.1 < rates.turned_away[1] < 0.3 and 0.1 < rates.misplaced[1] < 0.3
    let_in = sum(not bool(router.score(sample[None]).is_out_of_distribution) for sample in strangers)
    assert rates.ood_accepted == pytest.approx(let_in / 40) and 5 <= let_in <= 15


def test_a_state_fills_a_fresh_router_which_then_learns_on(router, kind):
    fresh = create(kind)
    fresh.load_state_dict(router.state_dict())
    features = torch.cat([task(seed, 20, draw=2)[0] for seed in range(4)])
    assert len(fresh) == 3
    same(router.score(features), fresh.score(features))
    for one in (router, fresh):
        one.fit(*task(3))
    assert len(fresh) == 4
    same(router.score(features), fresh.score(features))
    used = create(kind)
    used.fit(*task(8))
    used.load_state_dict(router.state_dict())
    same(router.score(features), used.score(features))


def test_an_empty_state_too(kind):
    router = create(kind)
    router.load_state_dict(create(kind).state_dict())
    assert len(router) == 0


def test_copies_are_equal_and_independent(router):
    features = torch.cat([task(seed, 20, draw=2)[0] for seed in range(4)])
    before = router.score(features)
    for other in (pickle.loads(pickle.dumps(router)), copy.deepcopy(router)):
        same(before, other.score(features))
        other.fit(*task(3))
        assert len(other) == 4 and len(router) == 3
    same(before, router.score(features))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_fit_is_repeatable_under_any_mode_and_leaves_the_random_state_alone(kind, mode, fitted):
    before, features = torch.get_rng_state(), task(0, 30, draw=1)[0]
    with mode():
        router = create(kind)
        for seed in range(3):
            router.fit(*(part.clone() for part in task(seed)))
        route = router.score(features)
    assert torch.equal(torch.get_rng_state(), before)
    same(route, fitted[kind].score(features))
    assert not any(b.requires_grad or b.is_inference() for b in router.buffers())
    copy.deepcopy(router).fit(*task(3))


def test_half_precision_around_a_router_changes_nothing_in_it(kind, fitted):
    features = torch.cat([task(seed, 20, draw=2)[0] for seed in range(4)])
    with torch.autocast("cpu", torch.bfloat16):
        router = create(kind)
        for seed in range(3):
            router.fit(*task(seed))
        route = router.score(features)
    same(route, fitted[kind].score(features))
    agree = (fitted[kind].score(features.bfloat16()).task == route.task).float().mean()
    assert agree > 0.95
    assert router.to(torch.bfloat16).score(features.bfloat16()).task.shape == (80,)


def test_earlier_tasks_keep_their_distances(router):
    features = torch.cat([task(seed, 20, draw=2)[0] for seed in range(4)])
    before = router.distances(features)
    router.fit(*task(3))
    assert torch.equal(router.distances(features)[:, :3], before)
    assert (router.score(task(3, draw=1)[0]).task == 3).float().mean() > 0.97


def test_the_account_holds_every_task(router, kind):
    three = router.stored().ram
    assert three == sum(b.numel() * b.element_size() for b in router.buffers())
    assert create(kind).stored().ram == 0
    router.fit(*task(3))
    assert router.stored().ram * 3 == three * 4


def test_samples_that_a_router_cannot_learn_leave_it_as_it_was(router):
    before = pickle.dumps(router.state_dict())
    with pytest.raises(InputError, match="at least ten samples of a task, task 3 has 9"):
        router.fit(torch.randn(9, WIDTH), torch.zeros(9))
    with pytest.raises(InputError, match="cannot learn task 3: a feature is not finite"):
        router.fit(torch.full((20, WIDTH), torch.inf), torch.zeros(20))
    assert pickle.dumps(router.state_dict()) == before


def test_ten_samples_are_enough_and_equal_ones_too(kind):
    router = create(kind)
    router.fit(*task(0, 10))
    same_sample = task(1, 1)[0].expand(10, -1)
    router.fit(same_sample, torch.arange(10))
    route = router.score(torch.cat([same_sample[:1], -same_sample[:1]]))
    assert route.task[0] == 1 and route.is_out_of_distribution.tolist() == [False, True]
    assert all(bool(b.isfinite().all()) for b in router.buffers())


def test_a_router_without_tasks_has_no_answer(kind):
    with pytest.raises(InputError, match="must be fitted before it is asked"):
        create(kind).score(torch.randn(2, WIDTH))


class OnALine(CalibratedRouter):
    """Tasks are points on a line; distances have any unit and origin."""

    parts = ("points",)

    def __init__(self, unit: float = 1.0, origin: float = 0.0) -> None:
        super().__init__(0.9)
        self.unit, self.origin = unit, origin

    def _learn(self, features, labels):
        return {"points": features.mean()[None]}

    def _measure(self, features, parts):
        return self.unit * (features - parts["points"]).abs() + self.origin


def line(**options) -> OnALine:
    """A narrow task around 0, which reaches to 0.9, and a wide one around 5, which reaches to 8 below."""
    router = OnALine(**options)
    router.fit(torch.linspace(-1, 1, 50)[:, None], torch.zeros(50))
    router.fit(torch.linspace(-4, 14, 50)[:, None], torch.zeros(50))
    held = (torch.linspace(-1, 1, 199), torch.linspace(-4, 14, 199))
    router.calibrate([part[:, None] for part in held], 0.1)
    return router


def test_thresholds_say_who_may_have_a_sample_and_distance_who_gets_it():
    router = line()
    route = router.score(torch.tensor([[0.0], [0.8], [1.5], [4.0], [30.0], [-20.0]]))
    # 0.8 is a more usual sample of the wide task, but it is nearer to the narrow one; at 1.5 that is closed.
    assert (router.distances(torch.tensor([[0.8]]))[0].diff() < 0).all()
    # Strangers are named by the task whose threshold they exceed least.
    assert route.task.tolist() == [0, 0, 1, 1, 1, 1]
    assert route.is_out_of_distribution.tolist() == [False, False, False, False, True, True]
    expected = (-router.distances(torch.tensor([[1.5]]))).softmax(1)[0, 1]
    assert route.confidence[2] == expected


@settings(max_examples=50, deadline=None)
@given(unit=st.floats(1e-2, 1e2), origin=st.floats(-1e2, 1e2))
def test_neither_unit_nor_origin_of_a_distance_matters(unit, origin):
    x = torch.linspace(-20, 30, 101)[:, None]
    router, plain = line(unit=unit, origin=origin), line()
    distances = plain.distances(x)
    torch.testing.assert_close(router.distances(x), distances, atol=1e-2, rtol=1e-3)
    clear = (distances - 1).abs().min(1).values > 0.05
    assert torch.equal(router.score(x[clear]).is_out_of_distribution, plain.score(x[clear]).is_out_of_distribution)
    between = clear & ((x[:, 0] - 2.5).abs() > 0.1)
    assert torch.equal(router.score(x[between]).task, plain.score(x[between]).task)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60), st.integers(1, 99))
@example(list(range(49)), 14)  # 50 * 0.14 is a little more than 7
def test_the_upper_quantile_is_the_least_value_that_enough_others_stay_below(values, percent):
    needed = [v for v in values if 100 * sum(w <= v for w in values) >= percent * (len(values) + 1)]
    expected = min(needed, default=max(values))
    assert upper_quantile(torch.tensor(values, dtype=torch.float64), percent / 100).item() == expected


def test_unknown_routers_and_options_are_named():
    with pytest.raises(InputError, match=r"no router is called 'nearest'; there are autoencoder, kmeans, gaussian, "):
        create_router("nearest")
    with pytest.raises(InputError, match=r"router kmeans has no option 'shrinkage'; it has quantile, centres, metric"):
        create_router("kmeans", shrinkage=0.1)
