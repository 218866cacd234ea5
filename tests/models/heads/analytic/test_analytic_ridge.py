"""Recursive least squares and RanPAC's ridge regression, against joint solutions computed here."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.heads.analytic import RandomProjectionRidge, RecursiveRidge
from avalanche_vlm.models.heads.analytic.ridge import RIDGES, choose_ridge, recursive_update_, ridge_solution


def data(n: int = 200, width: int = 16, classes: int = 6, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy classes on the sphere."""
    centres = F.normalize(torch.randn(classes, width), dim=1)
    y = torch.arange(n) % classes
    return F.normalize(centres[y] + 0.2 * torch.randn(n, width), dim=1).to(dtype), y


def joint(head: RecursiveRidge, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """scikit-learn's ridge regression on the head's random features."""
    phi = np.maximum(x.double().numpy() @ head.projection.double().numpy(), 0)
    onehot = np.eye(int(y.max()) + 1)[y.numpy()]
    return Ridge(alpha=head.ridge, fit_intercept=False, solver="cholesky").fit(phi, onehot).coef_.T


def by_task(x: torch.Tensor, y: torch.Tensor, tasks: int = 3):
    """Experiences with classes of their own."""
    for task in range(tasks):
        own = y % tasks == task
        yield x[own], y[own]


def test_sequential_equals_joint():
    x, y = data()
    head = RecursiveRidge(hidden=96, chunk=17)
    for part in by_task(x, y):
        head.fit(*part)
    expected = joint(head, x, y)
    np.testing.assert_allclose(head.weights.numpy(), expected, atol=1e-6)
    phi = np.maximum(x.double().numpy() @ head.projection.numpy(), 0)
    np.testing.assert_allclose(head.inverse.numpy(), np.linalg.inv(phi.T @ phi + 0.1 * np.eye(96)), atol=1e-6)
    np.testing.assert_allclose(head(x).numpy(), phi @ expected, atol=1e-6)


def test_single_precision_stays_within_a_thousandth():
    x, y = data(2000)
    head = RecursiveRidge(hidden=96, precision="float32")
    for part in by_task(x, y):
        head.fit(*part)
    assert head.weights.dtype == head.inverse.dtype == torch.float32
    phi = np.maximum(x.double().numpy() @ head.projection.double().numpy(), 0)
    assert np.abs(head(x).numpy() - phi @ joint(head, x, y)).max() < 1e-3


@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_the_chunk_changes_nothing(chunk):
    x, y = data()
    whole, cut = RecursiveRidge(hidden=64, chunk=200), RecursiveRidge(hidden=64, chunk=chunk)
    whole.fit(x, y)
    cut.fit(x, y)
    torch.testing.assert_close(cut.weights, whole.weights, atol=1e-8, rtol=0)
    torch.testing.assert_close(cut.inverse, whole.inverse, atol=1e-8, rtol=0)


def test_the_update_is_woodburys_in_any_order():
    x, targets = torch.randn(30, 8).double(), torch.randn(30, 3).double()
    inverse, weights = torch.eye(8).double() / 0.5, torch.zeros(8, 3).double()
    for rows in torch.randperm(30).split(4):
        recursive_update_(inverse, weights, x[rows], targets[rows])
    gram = x.T @ x + 0.5 * torch.eye(8).double()
    torch.testing.assert_close(inverse, torch.linalg.inv(gram), atol=1e-10, rtol=0)
    torch.testing.assert_close(weights, torch.linalg.inv(gram) @ x.T @ targets, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", [RecursiveRidge, RandomProjectionRidge])
def test_classes_that_come_again_and_classes_left_out(kind):
    x, y = data()
    order = torch.randperm(len(y))
    y = torch.where(y == 3, 8, y)  # 3, 6 and 7 never come
    head, whole = kind(hidden=48), kind(hidden=48)
    for rows in order.split(70):
        head.fit(x[rows], y[rows])
    whole.fit(x, y)
    if kind is RandomProjectionRidge:
        head.weights = ridge_solution(head.gram, head.products, 1.0)
        whole.weights = ridge_solution(whole.gram, whole.products, 1.0)
    assert head.known.tolist() == [True, True, True, False, True, True, False, False, True]
    torch.testing.assert_close(head.weights, whole.weights, atol=1e-8, rtol=0)
    assert (head(x)[:, [3, 6, 7]] == 0).all()


def test_ranpac_is_the_direct_solution_with_the_ridge_of_the_last_experience():
    x, y = data()
    head = RandomProjectionRidge(hidden=64)
    for part in by_task(x, y):
        head.fit(*part)
    phi = np.maximum(x.double().numpy() @ head.projection.numpy(), 0)
    onehot = np.eye(6)[y.numpy()]
    expected = Ridge(alpha=float(head.ridge), fit_intercept=False, solver="cholesky").fit(phi, onehot).coef_.T
    np.testing.assert_allclose(head(x).numpy(), phi @ expected, atol=1e-6)
    assert (head(x).argmax(1) == y).float().mean() > 0.9
    (last_x, last_y) = list(by_task(x, y))[-1]
    order = torch.randperm(len(last_y), generator=torch.Generator().manual_seed(0)).numpy()
    inputs = np.maximum(last_x.double().numpy() @ head.projection.numpy(), 0)[order]
    targets = np.eye(6)[last_y.numpy()][order]
    n = int(0.8 * len(inputs))

    def loss(ridge: float) -> float:
        fitted = Ridge(alpha=ridge, fit_intercept=False, solver="svd").fit(inputs[:n], targets[:n])
        return ((fitted.predict(inputs[n:]) - targets[n:]) ** 2).mean()

    losses = [loss(ridge) for ridge in RIDGES]
    assert float(head.ridge) == RIDGES[int(np.argmin(losses))]


def test_noise_takes_a_large_ridge_and_a_clean_line_a_small_one():
    x = torch.randn(100, 20).double()
    clean = x @ torch.randn(20, 2).double()
    assert choose_ridge(x, clean) <= 1e-2
    assert choose_ridge(x, torch.randn(100, 2).double()) >= 10
    assert choose_ridge(x[:2], clean[:2]) in RIDGES
    single = RandomProjectionRidge(hidden=8)
    single.fit(torch.randn(1, 4), torch.tensor([2]))
    assert float(single.ridge) == 1.0 and single(torch.randn(3, 4)).shape == (3, 3)


def test_the_projections_are_as_published():
    uniform, normal = RecursiveRidge(1024), RandomProjectionRidge(1024)
    for head in (uniform, normal):
        head.fit(torch.randn(2, 16), torch.tensor([0, 1]))
    assert uniform.projection.abs().max() <= 0.25
    torch.testing.assert_close(uniform.projection.std(), torch.tensor(0.25 / 3**0.5).double(), atol=0.005, rtol=0)
    torch.testing.assert_close(normal.projection.std(), torch.tensor(1.0).double(), atol=0.02, rtol=0)


@pytest.mark.parametrize(("kind", "seed"), [(RecursiveRidge, 4), (RandomProjectionRidge, 3)])
def test_a_loaded_head_goes_on_where_it_was(kind, seed):
    x, y = data()
    head, fresh = kind(hidden=32, seed=3), kind(hidden=32, seed=seed)  # RanPAC's splits are the seed's
    head.fit(x[:100], y[:100])
    fresh.load_state_dict(head.state_dict())
    twin = copy.deepcopy(head)
    for other in (head, fresh, twin):
        other.fit(x[100:], y[100:] + 3)
    assert torch.equal(fresh.weights, head.weights) and torch.equal(twin(x), head(x))


def test_what_is_stored_is_what_is_said():
    x, y = data()
    primal, ranpac = RecursiveRidge(hidden=32, precision="float32"), RandomProjectionRidge(hidden=32)
    primal.fit(x, y)
    ranpac.fit(x, y)
    assert primal.stored().total == 4 * (32 * 32 + 16 * 32 + 32 * 6) + 6
    assert ranpac.stored().total == 8 * (32 * 32 + 16 * 32 + 2 * 32 * 6 + 1) + 6


def test_autocast_does_not_reach_the_solution():
    x, y = data()
    plain, cast = RecursiveRidge(32, precision="float32"), RecursiveRidge(32, precision="float32")
    plain.fit(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast.fit(x, y)
        estimates = cast(x)
    assert torch.equal(cast.weights, plain.weights) and torch.equal(estimates, plain(x))


def test_input_that_cannot_be():
    x, y = data()
    head = RecursiveRidge(8)
    head.fit(x, y)
    with pytest.raises(InputError, match="fitted on 16 features, and these are 4"):
        head.fit(torch.randn(2, 4), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="do not belong together"):
        head.fit(x, y[:3])
    with pytest.raises(InputError, match="0 or more, not -1"):
        head.fit(x[:1], torch.tensor([-1]))
    before = head.weights.clone()
    head.fit(x[:0], y[:0])
    assert torch.equal(head.weights, before)
    with pytest.raises(InputError, match="float64 or float32, not 'half'"):
        RecursiveRidge(precision="half")
    with pytest.raises(InputError, match="ridge is positive"):
        RecursiveRidge(ridge=0)
    with pytest.raises(InputError, match="1 random feature or more, not 0"):
        RandomProjectionRidge(0)
