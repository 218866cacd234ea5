"""Each router's distance, computed another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from routing import WIDTH, task
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf, ShrunkCovariance
from sklearn.mixture import GaussianMixture
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers import (
    AutoencoderRouter,
    CalibratedRouter,
    GaussianRouter,
    KMeansRouter,
    MixtureRouter,
    PrototypeRouter,
    TopPrototypesRouter,
    autoencoder,
    create_router,
)
from avalanche_vlm.models.routers.prototype import class_prototypes

FRESH = torch.cat([task(0, 30, draw=1)[0], task(7, 10)[0]])


def measured(router: CalibratedRouter, features: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Distances of fresh samples to a task of which every sample is learned, before calibration."""
    return router._measure(FRESH, router._learn(features, labels))[:, 0].double().numpy()


def class_means(features: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    return np.stack([features[labels == c].double().numpy().mean(0) for c in labels.unique()])


@pytest.mark.parametrize("shrinkage", [0.1, 1.0])
def test_prototypes_by_mahalanobis_distance_and_determinant(shrinkage):
    features, labels = task(0)
    means = class_means(features, labels)
    within = features.double().numpy() - means[labels.numpy()]
    covariance = ShrunkCovariance(shrinkage=shrinkage, assume_centered=True).fit(within).covariance_
    nearest = cdist(FRESH.double().numpy(), means, "mahalanobis", VI=np.linalg.inv(covariance)).min(1)
    expected = 0.5 * nearest**2 + 0.5 * np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(measured(PrototypeRouter(shrinkage=shrinkage), features, labels), expected, rtol=1e-4)


def test_prototypes_are_the_likeliest_class_of_a_shared_covariance():
    """Their distance is a negative log-likelihood, up to the same constant for all tasks."""
    router, constant = PrototypeRouter(), []
    for seed in range(2):
        features, labels = task(seed)
        means = class_means(features, labels)
        within = features.double().numpy() - means[labels.numpy()]
        covariance = ShrunkCovariance(shrinkage=0.1, assume_centered=True).fit(within).covariance_
        best = np.max([multivariate_normal(mean, covariance).logpdf(FRESH.double().numpy()) for mean in means], 0)
        constant.append(-best - measured(router, features, labels))
    np.testing.assert_allclose(constant, 0.5 * WIDTH * np.log(2 * np.pi), rtol=1e-3)


@pytest.mark.parametrize(("metric", "name"), [("l1", "cityblock"), ("l2", "euclidean")])
def test_centres_are_those_of_scikit_learn(metric, name):
    features, labels = task(0)
    centres = KMeans(5, random_state=0).fit(features.double().numpy()).cluster_centers_
    expected = cdist(FRESH.double().numpy(), centres, name).min(1)
    np.testing.assert_allclose(measured(KMeansRouter(metric=metric), features, labels), expected, rtol=1e-5)


def test_fewer_distinct_samples_than_centres():
    few, _ = task(0, 3)
    router = KMeansRouter(centres=5, metric="l2")
    expected = cdist(FRESH.numpy(), few.numpy()).min(1)
    np.testing.assert_allclose(measured(router, few.repeat(5, 1), torch.zeros(15)), expected, atol=1e-5)


@pytest.mark.parametrize("shrinkage", [0.1, "ledoit-wolf"])
def test_gaussians_are_those_of_scikit_learn_and_scipy(shrinkage):
    features, labels = task(0)
    reference = LedoitWolf() if shrinkage == "ledoit-wolf" else ShrunkCovariance(shrinkage=shrinkage)
    reference.fit(features.double().numpy())
    expected = multivariate_normal(reference.location_, reference.covariance_).logpdf(FRESH.double().numpy())
    np.testing.assert_allclose(-measured(GaussianRouter(shrinkage=shrinkage), features, labels), expected, rtol=1e-4)


def test_mixtures_are_those_of_scikit_learn():
    features, labels = task(0)
    reference = GaussianMixture(5, covariance_type="diag", random_state=0).fit(features.double().numpy())
    expected = reference.score_samples(FRESH.double().numpy())
    np.testing.assert_allclose(-measured(MixtureRouter(), features, labels), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_log_likelihoods_are_given_for_every_task(name):
    router = create_router(name)
    with pytest.raises(InputError, match="must be fitted"):
        router.log_likelihood(FRESH)
    for seed in range(2):
        router.fit(*task(seed))
    given = router.log_likelihood(FRESH)
    assert given.shape == (40, 2)
    expected = (-given - router.middles) / (router.thresholds - router.middles)
    torch.testing.assert_close(router.distances(FRESH), expected)
    # A density: of all the points in a box around the task, those of the task are the likeliest.
    assert given[:30, 0].min() > given[30:, 0].max()


@pytest.mark.parametrize("top", [1, 3, 9])
def test_the_most_similar_prototypes(top):
    features, labels = task(0)
    similarities = 1 - cdist(FRESH.double().numpy(), class_means(features, labels), "cosine")
    expected = 1 - np.sort(similarities, 1)[:, ::-1][:, :top].mean(1)
    np.testing.assert_allclose(measured(TopPrototypesRouter(top=top), features, labels), expected, atol=1e-6)


def test_tasks_of_different_size_keep_to_their_own_prototypes():
    for router in (PrototypeRouter(), TopPrototypesRouter(top=3)):
        alone = []
        for seed, classes in ((0, 2), (1, 7), (2, 4)):
            one = type(router)()
            one.__dict__ |= {k: v for k, v in router.__dict__.items() if k == "top"}
            one.fit(*task(seed, classes=classes))
            router.fit(*task(seed, classes=classes))
            alone.append(one.distances(FRESH))
        assert router.counts.tolist() == [2, 7, 4]
        torch.testing.assert_close(router.distances(FRESH), torch.cat(alone, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [PrototypeRouter, TopPrototypesRouter])
def test_many_labels_become_cluster_centres(kind):
    features, _ = task(0)
    router = kind(max_prototypes=8)
    router.fit(features, torch.arange(len(features)))
    assert router.prototypes.shape[0] == 8
    assert not router.score(task(0, draw=1)[0]).is_out_of_distribution.float().mean() > 0.2


def test_captions_of_equal_pictures_have_a_prototype_each():
    few, _ = task(0, 3)
    prototypes, index = class_prototypes(few.repeat(20, 1), torch.arange(60), max_prototypes=64)
    torch.testing.assert_close(prototypes[index], few.repeat(20, 1))
    assert len(prototypes) == 3


class Autoencoder(nn.Module):
    """The same autoencoder as modules, trained on standardised features."""

    def __init__(self, features: torch.Tensor, hidden: int, steps: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mean, self.scale = features.mean(0), (features - features.mean(0)).square().mean().sqrt()
        self.net = nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH))
        for layer, gain in ((self.net[0], 2), (self.net[2], 1)):
            inputs, outputs = layer.in_features, layer.out_features
            layer.weight.data = torch.randn(inputs, outputs, generator=generator).T * (gain / inputs) ** 0.5
            layer.bias.data.zero_()
        optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2, weight_decay=1e-4)
        samples = (features - self.mean) / self.scale
        for _ in range(steps):
            batch = samples[torch.randint(len(samples), (64,), generator=generator)]
            optimizer.zero_grad()
            F.mse_loss(self.net(batch), batch).backward()
            optimizer.step()

    @torch.no_grad()
    def error(self, features: torch.Tensor) -> np.ndarray:
        restored = self.net((features - self.mean) / self.scale) * self.scale + self.mean
        return (restored - features).square().mean(1).numpy()


def test_an_autoencoder_is_the_one_that_modules_would_learn():
    features, labels = task(0)
    reference = Autoencoder(features, hidden=8, steps=100)
    errors = measured(AutoencoderRouter(hidden=8, steps=100), features, labels)
    np.testing.assert_allclose(errors, reference.error(FRESH), rtol=1e-3)
    # It has learned something: half of what the mean would leave, and of strangers nothing.
    variance = (FRESH[:30] - features.mean(0)).square().mean().item()
    assert errors[:30].mean() < 0.5 * variance < errors[30:].min()


@pytest.mark.parametrize("room", [1, 2 * FRESH.numel(), 2**20])
def test_errors_are_those_of_each_autoencoder_alone_however_many_run_at_once(room, monkeypatch):
    monkeypatch.setattr(autoencoder, "_ROOM", room)
    router = AutoencoderRouter(hidden=8, steps=20)
    for seed in range(3):
        router.fit(*task(seed))
    parts = {name: getattr(router, name) for name in router.parts}
    found = router._measure(FRESH, parts)
    assert found.shape == (len(FRESH), 3)
    for number in range(3):
        encode, encode_bias, decode, decode_bias = (part[number] for part in parts.values())
        restored = torch.addmm(decode_bias, torch.addmm(encode_bias, FRESH, encode).relu(), decode)
        torch.testing.assert_close(found[:, number], (restored - FRESH).square().mean(1), rtol=1e-6, atol=0)


def test_the_hidden_units_leave_a_bottleneck():
    router = AutoencoderRouter(hidden=1000, steps=1)
    router.fit(*task(0, 20))
    assert router.encode.shape == (1, WIDTH, WIDTH // 2)


@pytest.mark.parametrize("kind", ["kmeans", "mixture", "autoencoder"])
def test_seeds_make_a_difference(kind):
    options = {"steps": 20} if kind == "autoencoder" else {}
    states = [create_router(kind, seed=seed, **options) for seed in (0, 1, 1)]
    for router in states:
        router.fit(*task(0, classes=12))
    distances = [router.distances(FRESH) for router in states]
    assert torch.equal(distances[1], distances[2]) and not torch.equal(distances[0], distances[1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("prototype", {"quantile": 1.0}, "quantile is a share between 0 and 1, not 1.0"),
        ("prototype", {"shrinkage": 0.0}, "shrinkage is a share above 0 and up to 1, not 0.0"),
        ("prototype", {"max_prototypes": 0}, "max_prototypes is at least 1, not 0"),
        ("kmeans", {"centres": 0}, "centres is at least 1, not 0"),
        ("kmeans", {"metric": "cosine"}, "metric is 'l1' or 'l2', not 'cosine'"),
        ("gaussian", {"shrinkage": "best"}, "shrinkage is a number from 0 to 1, 'ledoit-wolf' or 'oas', not 'best'"),
        ("mixture", {"components": 0}, "components is at least 1, not 0"),
        ("autoencoder", {"hidden": 0}, "hidden is at least 1, not 0"),
        ("autoencoder", {"steps": 0}, "steps is at least 1, not 0"),
        ("top-prototypes", {"top": 0}, "top is at least 1, not 0"),
    ],
)
def test_options_out_of_range_are_named(name, options, message):
    with pytest.raises(InputError, match=message):
        create_router(name, **options)
