"""Fitting a density to features, by scikit-learn."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch

from avalanche_vlm._generators import generators_kept
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.densities import FLOOR, Densities, DensityKind, make_densities, zero_padded

Shrinkage = float | Literal["ledoit-wolf", "oas"]


def fit_density(
    features: torch.Tensor,
    kind: DensityKind,
    *,
    components: int = 4,
    shrinkage: Shrinkage = 0.1,
    spread: bool = True,
    seed: int = 0,
) -> Densities:
    """One density (``G = 1``, float32) by scikit-learn, in float64.

    No variance is below 1e-6 (no eigenvalue of a full covariance), and there are at most as many components as distinct
    samples: one sample is enough.

    :param features: finite, ``[N, D]``, ``N`` at least 1.
    :param components: number of components of ``"gmm"`` (diagonal covariances) and ``"kmeans"``, at least 1.
    :param shrinkage: how far a ``"full"`` covariance is shrunk: the weight in [0, 1] of the identity times the mean
        variance, or how to estimate that weight (Ledoit and Wolf 2004; Chen et al. 2010, oracle approximating
        shrinkage).
    :param spread: ``"kmeans"`` keeps one variance per centre (mean over its samples and all dimensions), or none.
    :param seed: seed of the clustering.

    >>> fit_density(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), "diagonal").factors.tolist()
    [[[1.0, 0.0010000000474974513]]]
    """
    x = features.detach().cpu().double().numpy()
    with generators_kept():  # scikit-learn draws when it is imported, once in every process
        means, factors, weights = _fitted(x, kind, components, shrinkage, spread, seed)
    width = components if kind in ("gmm", "kmeans") else 1
    parts = [zero_padded(torch.as_tensor(part), width)[None] for part in (means, factors, weights)]
    return make_densities(kind, parts[0], parts[1], parts[2])


def _fitted(
    x: np.ndarray, kind: DensityKind, components: int, shrinkage: Shrinkage, spread: bool, seed: int
) -> tuple[np.ndarray, ...]:
    """Means ``[C, D]``, factors ``[C, ...]`` and weights ``[C]``."""
    if kind == "gmm":
        return _mixture(x, components, seed)
    if kind == "kmeans":
        means, factors, weights = _centres(x, components, seed)
        return means, factors if spread else factors[:, :0], weights
    factors = np.zeros((1, 0))
    if kind == "diagonal":
        factors = np.sqrt(np.maximum(x.var(0, keepdims=True), FLOOR))
    elif kind == "full":
        factors = _cholesky(_covariance(x, shrinkage))[None]
    return x.mean(0, keepdims=True), factors, np.ones(1)


def check_shrinkage(shrinkage: Shrinkage) -> None:
    """:raises InputError: unless it is a number in [0, 1] or the name of an estimate."""
    if shrinkage in ("ledoit-wolf", "oas"):
        return
    if isinstance(shrinkage, str) or not 0 <= shrinkage <= 1:
        raise InputError(f"shrinkage is a number from 0 to 1, 'ledoit-wolf' or 'oas', not {shrinkage!r}")


def _covariance(x: np.ndarray, shrinkage: Shrinkage) -> np.ndarray:
    from sklearn.covariance import empirical_covariance, ledoit_wolf, oas, shrunk_covariance

    if (x == x[0]).all():
        return np.zeros((x.shape[1], x.shape[1]))
    if shrinkage == "ledoit-wolf":
        return ledoit_wolf(x)[0]
    return oas(x)[0] if shrinkage == "oas" else shrunk_covariance(empirical_covariance(x), shrinkage)


def _cholesky(covariance: np.ndarray) -> np.ndarray:
    """The packed Cholesky factor, of the covariance with its eigenvalues raised to the floor."""
    matrix = torch.from_numpy(covariance)
    floor = FLOOR * torch.eye(len(matrix), dtype=matrix.dtype)
    if torch.linalg.cholesky_ex(matrix - floor).info:
        values, vectors = torch.linalg.eigh(matrix)
        matrix = (vectors * values.clamp_min(FLOOR)) @ vectors.T
    return torch.linalg.cholesky(matrix)[tuple(torch.tril_indices(*matrix.shape))].numpy()


def _mixture(x: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, ...]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    components = min(components, len(np.unique(x, axis=0)))
    if components == 1:
        return x.mean(0, keepdims=True), np.sqrt(np.maximum(x.var(0, keepdims=True), FLOOR)), np.ones(1)
    mixture = GaussianMixture(components, covariance_type="diag", reg_covar=FLOOR, random_state=seed)
    with warnings.catch_warnings():
        # A mixture that has not converged is still a density.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(x)
    return mixture.means_, np.sqrt(mixture.covariances_), mixture.weights_


def _centres(x: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, ...]:
    from sklearn.cluster import KMeans

    components = min(components, len(np.unique(x, axis=0)))
    clusters = KMeans(components, random_state=seed).fit(x)
    counts = np.bincount(clusters.labels_, minlength=components)
    squared = np.square(x - clusters.cluster_centers_[clusters.labels_]).mean(1)
    variances = np.bincount(clusters.labels_, squared, components) / np.maximum(counts, 1)
    return clusters.cluster_centers_, np.sqrt(np.maximum(variances, FLOOR))[:, None], counts / len(x)
