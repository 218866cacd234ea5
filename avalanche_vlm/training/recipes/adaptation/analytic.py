"""Adaptation without gradients: heads in closed form on a frozen VLM."""

from __future__ import annotations

from avalanche_vlm.models import VLM
from avalanche_vlm.models.feature_cache import FeatureCache
from avalanche_vlm.models.heads.analytic import (
    AnalyticHead,
    Estimator,
    KernelRidge,
    NearestClassMean,
    RandomProjectionRidge,
    RecursiveRidge,
)
from avalanche_vlm.models.heads.analytic.base import Precision
from avalanche_vlm.training.plugins.analytic import AnalyticHeadPlugin
from avalanche_vlm.training.recipes.declaration import Plugins
from avalanche_vlm.training.recipes.facts import CLOSED_FORM
from avalanche_vlm.training.recipes.ranges import Count, Positive, Seed, Share, Workplace
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "rail-primal",
    family="PEA",
    summary="recursive least squares on random features, where the zero-shot answer is a class seen",
    kinds=["classes"],
    paper=["2406.18868"],
    training=[CLOSED_FORM],
)
def rail_primal(
    model: VLM,
    *,
    hidden: Count = 1024,
    ridge: Positive = 0.1,
    weight: Share = 0.8,
    precision: Precision = "float64",
    cache: Workplace = "",
    seed: Seed = 0,
) -> Plugins:
    """RAIL's primal form: recursive least squares on random features of the frozen image tower, mixed with the
    zero-shot answer where that is a class seen, and absent where it is not (Xu et al., arXiv 2406.18868).

    Ridge and weight are published, and so is the gate under the label space ``"union"``
    (:class:`~avalanche_vlm.models.heads.analytic.AnalyticHead` says what it is under the others). Differs from the
    authors' code: 1,024 random features instead of 15,000, whose inverse Gram matrix takes 900 MB in float32; features
    of evaluation transforms instead of one augmented view; log-probabilities in place of the mixture itself.

    :param hidden: number of random features; published: 15000.
    :param ridge: weight of the squared weights, above 0.
    :param weight: weight of the regression in the mixture, from 0 to 1.
    :param precision: precision of the closed form, ``"float64"`` or ``"float32"``.
    :param cache: folder in which features are kept; empty to compute them anew.
    :param seed: seed of the random projection, 0 or more.
    """
    return _plugins(model, RecursiveRidge(hidden, ridge, seed=seed, precision=precision), weight, cache)


@recipe(
    "rail-dual",
    family="PEA",
    summary="kernel ridge regression on all samples seen, where the zero-shot answer is a class seen",
    kinds=["classes"],
    paper=["2406.18868"],
    training=[CLOSED_FORM],
)
def rail_dual(
    model: VLM,
    *,
    gamma: Positive = 0.1,
    ridge: Positive = 0.001,
    weight: Share = 0.8,
    precision: Precision = "float64",
    cache: Workplace = "",
) -> Plugins:
    """RAIL's dual form: ridge regression with a Gaussian kernel on the features of all samples seen, behind the same
    gate as ``rail-primal`` (Xu et al., arXiv 2406.18868).

    All settings are those of the authors' code. It keeps every feature, and here the Cholesky factor of the kernel
    matrix as well, which saves fitting anew with every experience: 8 N^2 bytes for N samples. Meant for few shots.

    :param gamma: sharpness of the kernel, above 0.
    :param ridge: number that is added to the kernel matrix's diagonal, above 0.
    :param weight: weight of the regression in the mixture, from 0 to 1.
    :param precision: precision of the closed form, ``"float64"`` or ``"float32"``.
    :param cache: folder in which features are kept; empty to compute them anew.
    """
    return _plugins(model, KernelRidge(gamma, ridge, precision=precision), weight, cache)


@recipe(
    "ranpac",
    family="PEA",
    summary="class prototypes of random features, decorrelated by their Gram matrix",
    kinds=["classes"],
    paper=["2307.02251"],
    training=[CLOSED_FORM],
)
def ranpac(
    model: VLM,
    *,
    hidden: Count = 1024,
    precision: Precision = "float64",
    cache: Workplace = "",
    seed: Seed = 0,
) -> Plugins:
    """RanPAC's head: class prototypes of random features, decorrelated by their Gram matrix (McDonnell et al., arXiv
    2307.02251).

    Differs from the paper: no adapter is tuned on the first task; 1,024 random features instead of 10,000, whose Gram
    matrix takes 800 MB; a sample whose zero-shot answer is a class not seen keeps that answer, where the paper's
    network knows no such classes.

    :param hidden: number of random features; published: 10000.
    :param precision: precision of the closed form, ``"float64"`` or ``"float32"``.
    :param cache: folder in which features are kept; empty to compute them anew.
    :param seed: seed of the random projection and of the split that chooses the ridge, 0 or more.
    """
    return _plugins(model, RandomProjectionRidge(hidden, seed=seed, precision=precision), 1.0, cache)


@recipe(
    "simplecil",
    family="PEA",
    summary="the mean image feature of every class as its weights",
    kinds=["classes"],
    paper=["2303.07338"],
    training=[CLOSED_FORM],
)
def simplecil(model: VLM, *, cache: Workplace = "") -> Plugins:
    """SimpleCIL: the mean image feature of every class as its weight vector (Zhou et al., arXiv 2303.07338).

    Differs from the paper: a sample whose zero-shot answer is a class not seen keeps that answer, where the paper's
    network knows no such classes.

    :param cache: folder in which features are kept; empty to compute them anew.
    """
    return _plugins(model, NearestClassMean(float(model.scale)), 1.0, cache)


def _plugins(model: VLM, estimator: Estimator, weight: float, cache: str) -> Plugins:
    return [AnalyticHeadPlugin(model, AnalyticHead(estimator, weight), FeatureCache(cache) if cache else None)]
