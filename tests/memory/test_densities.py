"""Densities against scikit-learn, scipy and moments computed by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest, multivariate_normal
from sklearn.covariance import OAS, LedoitWolf, ShrunkCovariance
from sklearn.mixture import GaussianMixture

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.densities import FLOOR, Densities, concatenated, draw, log_prob, make_densities, moved
from avalanche_vlm.memory.density_fit import fit_density
from avalanche_vlm.memory.density_levels import Level, check_level, density_bytes, levels, lowered, width

KINDS = ["prototype", "diagonal", "full", "gmm", "kmeans"]


def blobs(n: int = 200, dim: int = 6, clusters: int = 4, seed: int = 0) -> torch.Tensor:
    """Correlated samples around a few far centres."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) * 0.3
    centres = rng.normal(size=(clusters, dim)) * 3
    return torch.from_numpy(centres[rng.integers(clusters, size=n)] + rng.normal(size=(n, dim)) @ mixing).float()


def covariances(densities: Densities) -> np.ndarray:
    """Full covariances ``[G, D, D]`` in float64."""
    out = np.zeros((len(densities), densities.dim, densities.dim))
    for g, packed in enumerate(densities.factors[:, 0].double().numpy()):
        factor = np.zeros((densities.dim, densities.dim))
        factor[np.tril_indices(densities.dim)] = packed
        out[g] = factor @ factor.T
    return out


def moments(densities: Densities, g: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance per dimension of a whole mixture, by the law of total variance."""
    means, weights = densities.means[g].double().numpy(), densities.weights[g].double().numpy()[:, None]
    variances = densities.factors[g].double().numpy() ** 2
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean) ** 2)).sum(0)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0, "ledoit-wolf", "oas"])
def test_full_covariances_and_their_density_are_those_of_scikit_learn_and_scipy(shrinkage):
    x = blobs()
    named = {"ledoit-wolf": LedoitWolf(), "oas": OAS()}
    reference = named.get(shrinkage) or ShrunkCovariance(shrinkage=shrinkage)
    reference.fit(x.double().numpy())
    fitted = fit_density(x, "full", shrinkage=shrinkage)
    np.testing.assert_allclose(covariances(fitted)[0], reference.covariance_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted.means[0, 0], reference.location_, rtol=1e-5)
    new = blobs(50, seed=1)
    expected = multivariate_normal(reference.location_, reference.covariance_).logpdf(new.double().numpy())
    np.testing.assert_allclose(log_prob(fitted, new)[:, 0], expected, rtol=1e-4)


def test_mixtures_and_diagonals_have_the_density_of_scikit_learn():
    x, new = blobs(), blobs(50, seed=1)
    for components in (1, 3, 4):
        reference = GaussianMixture(components, covariance_type="diag", random_state=5).fit(x.double().numpy())
        fitted = fit_density(x, "gmm", components=components, seed=5)
        assert fitted.components == components
        expected = reference.score_samples(new.double().numpy())
        np.testing.assert_allclose(log_prob(fitted, new)[:, 0], expected, rtol=1e-4)
    diagonal = fit_density(x, "diagonal")
    expected = multivariate_normal(x.double().mean(0), np.diag(x.double().var(0, correction=0))).logpdf(new.double())
    np.testing.assert_allclose(log_prob(diagonal, new)[:, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["prototype", "kmeans"])
def test_centres_and_prototypes_give_half_the_squared_distance_to_the_nearest(kind):
    fitted, new = fit_density(blobs(), kind, components=4), blobs(20, seed=1)
    naive = [min(float(((x - m) ** 2).sum()) for m in fitted.means[0]) for x in new]
    np.testing.assert_allclose(log_prob(fitted, new)[:, 0], [-0.5 * d for d in naive], rtol=1e-5)


def test_components_that_are_not_there_attract_nothing():
    x = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    for kind, expected in [("kmeans", -12.5), ("gmm", -12.5 / FLOOR)]:
        fitted = fit_density(x, kind, components=4)
        assert log_prob(fitted, torch.zeros(1, 2)).item() == pytest.approx(expected, rel=1e-3)


def test_centres_have_the_share_and_the_variance_of_their_samples():
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 4.0], [100.0, 0.0]])
    fitted = fit_density(x, "kmeans", components=2)
    order = fitted.means[0, :, 0].argsort()
    assert fitted.means[0][order].tolist() == [[0, 2], [100, 0]]
    assert fitted.weights[0][order].tolist() == [0.75, 0.25]
    # Squared distances 4, 0, 4 over three samples and two dimensions; a single sample has the smallest variance.
    np.testing.assert_allclose(fitted.factors[0, :, 0][order] ** 2, [8 / 6, FLOOR], rtol=1e-5)
    assert fit_density(x, "kmeans", components=2, spread=False).factors.shape == (1, 2, 0)


def test_a_prototype_is_drawn_as_the_mean_itself_and_a_centre_by_its_share():
    x = blobs()
    prototype = fit_density(x, "prototype")
    assert torch.equal(draw(prototype, torch.tensor([0, 0])), prototype.means[0].expand(2, -1))
    centres = fit_density(x, "kmeans", components=4, spread=False)
    drawn = draw(centres, torch.zeros(4000, dtype=torch.long), torch.Generator().manual_seed(0))
    shares = [(drawn == m).all(1).float().mean() for m in centres.means[0]]
    np.testing.assert_allclose(shares, centres.weights[0], atol=0.03)


@pytest.mark.parametrize("kind", ["diagonal", "full", "gmm", "kmeans"])
def test_what_is_drawn_has_the_moments_of_the_density(kind):
    far = concatenated([fit_density(blobs(seed=s), kind, components=4) for s in (0, 7)])
    index = torch.arange(2).repeat(20_000)
    drawn = draw(far, index, torch.Generator().manual_seed(0)).double().numpy()
    for g in (0, 1):
        mine = drawn[g::2]
        if kind == "full":
            mean, covariance = far.means[g, 0].double().numpy(), covariances(far)[g]
            np.testing.assert_allclose(np.cov(mine.T), covariance, atol=0.05 * covariance.diagonal().max())
            whitened = (mine - mean) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
            assert min(kstest(column, "norm").pvalue for column in whitened.T) > 1e-3
        else:
            mean, variance = moments(far, g)
            np.testing.assert_allclose(mine.var(0), variance, rtol=0.05)
        np.testing.assert_allclose(mine.mean(0), mean, atol=0.1)


@given(
    st.sampled_from(KINDS),
    arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.integers(-2, 2)),
    st.sampled_from([0.0, 0.1, "ledoit-wolf", "oas"]),
    st.sampled_from(["fp16", "fp32"]),
)
@settings(max_examples=120, deadline=None)
def test_no_sample_is_too_few_or_too_like_another(kind, x, shrinkage, precision):
    x = torch.from_numpy(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit_density(x, kind, components=5, shrinkage=shrinkage)
    fitted = lowered(fitted, Level(kind, precision, fitted.components))
    used = int((fitted.weights > 0).sum())
    assert used <= (min(5, len(x.unique(dim=0))) if kind in ("gmm", "kmeans") else 1)
    assert fitted.weights.sum().item() == pytest.approx(1)
    drawn = draw(fitted, torch.zeros(8, dtype=torch.long))
    assert drawn.isfinite().all() and drawn.shape == (8, x.shape[1])
    assert log_prob(fitted, torch.cat([x, drawn, x + 100])).isfinite().all()
    for level in levels(Level(kind, precision, fitted.components)):
        less = lowered(fitted, level)
        assert log_prob(less, x).isfinite().all() and draw(less, torch.zeros(2, dtype=torch.long)).isfinite().all()


def test_one_sample_is_a_narrow_density_around_it():
    x = torch.tensor([[0.6, 0.8]])
    for kind in ("diagonal", "full", "gmm"):
        fitted = fit_density(x, kind)
        assert log_prob(fitted, x).item() == pytest.approx(-math.log(2 * math.pi * FLOOR), rel=1e-5)


def test_a_singular_covariance_is_raised_to_the_floor_and_nothing_else_changes():
    x = blobs(dim=5)
    x[:, 4] = x[:, 0]
    fitted = covariances(fit_density(x, "full", shrinkage=0.0))[0]
    expected = np.cov(x.double().T, ddof=0)
    np.testing.assert_allclose(fitted, expected + FLOOR / 2 * np.outer([1, 0, 0, 0, -1], [1, 0, 0, 0, -1]), atol=2e-6)
    assert np.linalg.eigvalsh(fitted).min() == pytest.approx(FLOOR, rel=0.1)


@given(
    arrays(np.float64, (2, 3, 4), elements=st.floats(-1, 1)),
    st.sampled_from([1e-9, 1e-4, 1.0, 1e6]),
)
@settings(max_examples=100, deadline=None)
def test_half_precision_is_off_by_as_little_as_stated_at_every_scale(values, scale):
    means = torch.from_numpy(values * scale)
    packed = make_densities("prototype", means, means[..., :0], torch.ones(2, 3, dtype=torch.float64), "fp16")
    assert packed.values.dtype == torch.float16
    largest = means.abs().amax(-1, keepdim=True)
    # The third term is what the factors and products in single precision add.
    bound = 2.0**-11 * means.abs() + 2.0**-25 * largest + 2.0**-22 * means.abs()
    assert ((packed.means.double() - means).abs() <= bound + 1e-30).all()
    again = make_densities("prototype", packed.means, means[..., :0], torch.ones(2, 3), "fp16")
    assert torch.equal(again.values, packed.values)


@given(arrays(np.float64, (2, 1, 4), elements=st.floats(-1, 1)), st.sampled_from([1e-9, 1.0, 1e6]))
@settings(max_examples=100, deadline=None)
def test_a_byte_per_number_is_off_by_as_little_as_stated(values, scale):
    means = torch.from_numpy(values * scale)
    packed = make_densities("prototype", means, means[..., :0], torch.ones(2, 1), "int8")
    assert packed.values.dtype == torch.int8
    bound = means.abs().amax(-1, keepdim=True) / 254 * (1 + 1e-5)
    assert ((packed.means.double() - means).abs() <= bound + 1e-30).all()


def test_only_prototypes_are_kept_in_a_byte():
    for kind in KINDS:
        if kind == "prototype":
            check_level(Level(kind, "int8", 1))
        else:
            with pytest.raises(InputError, match=f"only prototypes are kept in int8, not {kind}"):
                check_level(Level(kind, "int8", 1))


def test_tiny_variances_survive_half_precision():
    x = blobs(400) * 1e-2 * torch.tensor([1.0, 1.0, 0.3, 0.3, 0.1, 0.1])
    for kind in ("diagonal", "full"):
        exact = fit_density(x, kind)
        half = lowered(exact, Level(kind, "fp16", 1))
        variances = [d.factors[0, 0] ** 2 if kind == "diagonal" else np.diag(covariances(d)[0]) for d in (exact, half)]
        assert variances[0].min() < 6e-5  # where float16 has no full precision any more
        np.testing.assert_allclose(variances[1], variances[0], rtol=2e-3)
        np.testing.assert_allclose(log_prob(half, x), log_prob(exact, x), atol=0.1)


@pytest.mark.parametrize("kind", ["diagonal", "full", "gmm"])
def test_a_variance_at_the_floor_beside_a_huge_one_survives_half_precision(kind):
    x = blobs(dim=2) * 1e5
    x[:, 1] = 3
    half = lowered(fit_density(x, kind, components=1, shrinkage=0.0), Level(kind, "fp16", 1))
    x[:, 1] = half.means[0, 0, 1]
    assert log_prob(half, x).isfinite().all()


def test_covariances_of_many_dimensions_stay_positive_in_half_precision():
    x = torch.nn.functional.normalize(torch.randn(40, 96) * torch.logspace(0, -2, 96), dim=1)
    exact = fit_density(x, "full", shrinkage=0.01)
    half = lowered(exact, Level("full", "fp16", 1))
    assert np.linalg.eigvalsh(covariances(half)[0]).min() > 0.5 * FLOOR
    error = np.abs(covariances(half) - covariances(exact))[0]
    deviation = np.sqrt(np.diag(covariances(exact)[0]))
    assert (error <= 2.0**-9 * np.outer(deviation, deviation)).all()


@given(st.integers(2, 9), st.integers(0, 10_000), st.sampled_from(["gmm", "kmeans"]))
@settings(max_examples=60, deadline=None)
def test_merging_components_keeps_the_mean_and_the_variance_of_the_whole(components, seed, kind):
    generator = torch.Generator().manual_seed(seed)
    used = int(torch.randint(1, components + 1, (1,), generator=generator))
    weights = torch.rand(2, components, generator=generator) + 0.05
    weights[1, used:] = 0
    shape = (2, components, 3 if kind == "gmm" else 1)
    before = make_densities(
        kind,
        torch.randn(2, components, 3, generator=generator),
        torch.rand(shape, generator=generator) + 0.01,
        weights / weights.sum(1, keepdim=True),
    )
    target = components
    while target > 1:
        target = (target + 1) // 2
        after = lowered(before, Level(kind, "fp32", target))
        assert after.components == target
        assert (after.weights[1] > 0).sum() == min(used, target)
        for g in (0, 1):
            (mean, variance), (new_mean, new_variance) = moments(before, g), moments(after, g)
            np.testing.assert_allclose(new_mean, mean, atol=1e-5)
            if kind == "kmeans":  # one variance for all dimensions can keep their sum only
                variance, new_variance = variance.sum(), new_variance.sum()
            np.testing.assert_allclose(new_variance, variance, rtol=1e-4)


def test_the_nearest_components_are_merged():
    means = torch.tensor([[[0.0], [10.0], [11.0], [30.0]]])
    before = make_densities("gmm", means, torch.ones(1, 4, 1), torch.tensor([[0.1, 0.2, 0.6, 0.1]]))
    after = lowered(before, Level("gmm", "fp32", 2))
    # 10 and 11 become 10.75, which is nearer to 0 than to 30.
    order = after.means[0, :, 0].argsort()
    np.testing.assert_allclose(after.means[0, order, 0], [0.8 * 10.75 / 0.9, 30], rtol=1e-5)
    np.testing.assert_allclose(after.weights[0, order], [0.9, 0.1], rtol=1e-5)


def test_a_full_covariance_is_lowered_to_its_diagonal_and_then_to_its_mean():
    full = concatenated([fit_density(blobs(seed=s), "full") for s in range(3)])
    diagonal = lowered(full, Level("diagonal", "fp32", 1))
    expected = np.diagonal(covariances(full), axis1=1, axis2=2)
    np.testing.assert_allclose(diagonal.factors[:, 0] ** 2, expected, rtol=1e-5)
    mixture = concatenated([fit_density(blobs(seed=s), "gmm") for s in range(3)])
    for wide in (full, diagonal, mixture):
        prototype = lowered(wide, Level("prototype", "fp16", 1))
        expected = (wide.weights[..., None] * wide.means).sum(1)
        np.testing.assert_allclose(prototype.means[:, 0], expected, rtol=1e-3, atol=1e-6)
        assert prototype.factors.shape == (3, 1, 0) and (prototype.weights == 1).all()


def test_every_level_takes_fewer_bytes_and_the_bytes_are_those_of_the_tensors():
    for kind in KINDS:
        fitted = fit_density(blobs(), kind, components=5)
        ladder = levels(Level(kind, "fp32", fitted.components))
        assert ladder[-2:] == [Level("prototype", "fp16", 1), Level("prototype", "int8", 1)]
        sizes = []
        for level in ladder:
            less = lowered(fitted, level)
            assert less.kind == level.kind and less.values.shape[-1] == less.dim + width(less.kind, less.dim)
            sizes.append(less.values.nbytes + less.numbers.nbytes)
            assert sizes[-1] == density_bytes(level, less.dim)
        assert sizes == sorted(set(sizes), reverse=True)
    assert [level.components for level in levels(Level("gmm", "fp32", 5))] == [5, 5, 3, 2, 1, 1, 1]


def drifted(means: np.ndarray, before: np.ndarray, after: np.ndarray, sigma: float) -> np.ndarray:
    """SDC with loops."""
    out = means.copy()
    for j, mean in enumerate(means):
        total, weight_sum = np.zeros_like(mean), 0.0
        for b, a in zip(before, after, strict=True):
            weight = math.exp(-float(((b - mean) ** 2).sum()) / (2 * sigma**2))
            total, weight_sum = total + weight * (a - b), weight_sum + weight
        out[j] += total / weight_sum
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_drift_moves_every_mean_as_a_naive_loop_does_and_nothing_else(kind):
    rng = np.random.default_rng(0)
    x = [torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(30, 5))), dim=1) for _ in range(3)]
    densities = concatenated([fit_density(part, kind, components=3) for part in x])
    before = x[0].numpy()
    after = before + rng.normal(size=before.shape) * 0.1
    now = moved(densities, torch.from_numpy(before), torch.from_numpy(after), 0.3)
    expected = drifted(densities.means.double().numpy().reshape(-1, 5), before, after, 0.3)
    np.testing.assert_allclose(now.means.reshape(-1, 5), expected, atol=1e-6)
    assert torch.equal(now.factors, densities.factors) and torch.equal(now.weights, densities.weights)
    half = lowered(densities, Level(kind, "fp16", densities.components))
    later = moved(half, torch.from_numpy(before), torch.from_numpy(after), 0.3)
    assert later.values.dtype == torch.float16 and torch.equal(later.factors, half.factors)
    np.testing.assert_allclose(later.means.reshape(-1, 5), expected, atol=2e-3)


def test_a_mean_far_from_all_data_follows_the_nearest():
    far = fit_density(torch.tensor([[1000.0, 0.0]]), "prototype")
    before = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    now = moved(far, before, before + torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]), 0.3)
    assert now.means.tolist() == [[[1000, 3]]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_weighed_by_itself_and_full_precision_holds_under_autocast(kind):
    densities = concatenated([fit_density(blobs(seed=s), kind) for s in range(3)])
    x = blobs(16, seed=9)
    together = log_prob(densities, x)
    torch.testing.assert_close(together, torch.cat([log_prob(densities, row) for row in x.split(1)]), rtol=1e-5, atol=0)
    index = torch.arange(3)
    drawn = draw(densities, index, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_prob(densities, x), together)
        assert torch.equal(draw(densities, index, torch.Generator().manual_seed(0)), drawn)


def test_features_of_another_dimension_are_refused():
    with pytest.raises(InputError, match=r"\[B, 6\] in this memory, not \[2, 5\]"):
        log_prob(fit_density(blobs(), "full"), torch.zeros(2, 5))
