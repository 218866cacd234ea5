"""How alike two representations of the same samples are, as pure functions. This module imports torch alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError


@torch.no_grad()
def linear_cka(x: torch.Tensor, y: torch.Tensor, debiased: bool = False) -> float:
    """Linear centred kernel alignment (Kornblith et al., arXiv 1905.00414, section 3):
    ``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` of centred features.

    Rotating, reflecting or scaling either side as a whole changes nothing; stretching one direction does. With about
    as many dimensions as samples the biased figure is high for unrelated features. ``debiased`` takes the unbiased
    estimator of HSIC (Song et al., "Feature Selection via Dependence Maximization", JMLR 2012) in all three places,
    after which unrelated features are near 0 however wide they are.

    :param x: features ``[N, D]`` of one model or layer.
    :param y: features ``[N, E]`` of another, row n from the sample of ``x``'s row n.
    :param debiased: whether to take the unbiased estimator, which needs N of at least 4.
    :return: alignment in [0, 1]; debiased it may leave that range a little. NaN if one side does not vary.
    :raises InputError: if the rows do not pair up or are too few.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    >>> round(linear_cka(x, 5 * x @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]])), 6)
    1.0
    """
    least = 4 if debiased else 2
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < least:
        raise InputError(
            f"CKA compares features [N, D] of the same {least} or more samples, got {list(x.shape)} and {list(y.shape)}"
        )
    inner = _hsic if debiased else _centred_inner
    k, el = _gram(x), _gram(y)
    return _ratio(inner(k, el), inner(k, k), inner(el, el))


@torch.no_grad()
def spearman(x: torch.Tensor, y: torch.Tensor) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks.

    :param x: numbers of any shape.
    :param y: numbers, as many as ``x`` has.
    :return: correlation in [-1, 1]; NaN if one side is constant.
    :raises InputError: if they are not equally many.

    >>> round(spearman(torch.tensor([1.0, 2.0, 2.0, 9.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])), 4)
    0.9487
    """
    if x.numel() != y.numel():
        raise InputError(f"a rank correlation needs as many numbers on both sides, got {x.numel()} and {y.numel()}")
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    return _ratio((a * b).sum(), (a * a).sum(), (b * b).sum())


@torch.no_grad()
def rsa(x: torch.Tensor, y: torch.Tensor) -> float:
    """Representational similarity analysis (Kriegeskorte et al., doi 10.3389/neuro.06.004.2008): Spearman's
    correlation of the upper triangles of two matrices of cosine similarities.

    :param x: features ``[N, D]`` of one model or layer; normalised here.
    :param y: features ``[N, E]`` of another, row n from the sample of ``x``'s row n; normalised here.
    :return: correlation in [-1, 1]; NaN if all similarities of one side are equal.
    :raises InputError: if they are not of as many samples.

    >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> rsa(x, -3 * x)
    1.0
    """
    if len(x) != len(y):
        raise InputError(f"representations of as many samples are compared, not of {len(x)} and {len(y)}")
    above = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).triu(1)
    return spearman(_cosines(x, x)[above], _cosines(y, y)[above])


@torch.no_grad()
def cross_modal_rsa(
    images: torch.Tensor, texts: torch.Tensor, images_before: torch.Tensor, texts_before: torch.Tensor
) -> float:
    """Spearman's correlation of the matrix of image-text similarities with what it was: all entries, since each is a
    similarity of two different things.

    Unlike :func:`rsa` it sees one tower turn against the other.

    :param images: features of images ``[N, D]``; normalised here.
    :param texts: features of texts ``[M, D]``; normalised here.
    :param images_before: earlier features of the same images ``[N, E]``; normalised here.
    :param texts_before: earlier features of the same texts ``[M, E]``; normalised here.
    :return: correlation in [-1, 1].

    >>> x = torch.eye(3)
    >>> cross_modal_rsa(x, x, 2 * x, x), cross_modal_rsa(x, x.roll(1, 0), x, x)
    (1.0, -0.5)
    """
    return spearman(_cosines(images, texts), _cosines(images_before, texts_before))


def _ranks(x: torch.Tensor) -> torch.Tensor:
    _, place, count = x.flatten().double().unique(return_inverse=True, return_counts=True)
    count = count.double()
    return (count.cumsum(0) - (count - 1) / 2)[place]


def _cosines(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.normalize(x.double(), dim=1) @ F.normalize(y.double(), dim=1).T


def _gram(x: torch.Tensor) -> torch.Tensor:
    x = x.double()
    # Centring first costs nothing and keeps the digits of features whose mean is large.
    x = x - x.mean(0)
    return x @ x.T


def _centred_inner(k: torch.Tensor, el: torch.Tensor) -> torch.Tensor:
    return (k * el).sum()


def _hsic(k: torch.Tensor, el: torch.Tensor) -> torch.Tensor:
    """Unbiased up to the factor ``1 / (n (n - 3))``, which cancels."""
    n = len(k)
    k, el = k - k.diag().diag(), el - el.diag().diag()
    rows_k, rows_l = k.sum(0), el.sum(0)
    means = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
    return (k * el).sum() + means - 2 / (n - 2) * (rows_k * rows_l).sum()


def _ratio(both: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> float:
    """``both / sqrt(x y)``, NaN where one of them has no spread."""
    return (both / (x * y).sqrt()).item() if x > 0 and y > 0 else float("nan")
