"""Small densities of features, all of one kind and packed in two tensors: draw, weigh, move.

What is kept of a spread is a *factor* of the covariance (a standard deviation, a Cholesky factor) and not the
covariance: it stays positive definite however it is rounded, spans half the orders of magnitude, and needs no
factorisation when samples are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from avalanche_vlm.errors import InputError

DensityKind = Literal["prototype", "diagonal", "full", "gmm", "kmeans"]
"""What is kept of a class: a mean, a Gaussian with a diagonal or a full covariance, several Gaussians, or centres."""
DensityPrecision = Literal["int8", "fp16", "fp32"]
"""How its numbers are kept."""

FLOOR = 1e-6
"""Smallest variance, as scikit-learn's mixtures have it: a class of one sample has a density too."""
DTYPES: dict[DensityPrecision, torch.dtype] = {"int8": torch.int8, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Densities:
    """``G`` densities of up to ``K`` components in ``D`` dimensions.

    ============= ================================ ========================================
    kind          components                       factors ``F`` per component
    ============= ================================ ========================================
    ``prototype`` 1                                0
    ``diagonal``  1                                ``D`` standard deviations
    ``full``      1                                ``D (D + 1) / 2``: lower Cholesky factor
    ``gmm``       up to K                          ``D`` standard deviations
    ``kmeans``    up to K                          1 standard deviation, or 0
    ============= ================================ ========================================

    In half precision each component's mean and factors are divided by their largest magnitude: what is read back is off
    by at most ``2^-11`` of a value plus ``2^-25`` of that largest magnitude, whatever the scale of the features (below
    1e-30 all counts as zero).

    Prototypes may have a single byte per number, which is off by at most 1/254 of the largest magnitude.

    :param kind: what every one of them is, as in the table.
    :param dim: ``D``, the width of a feature.
    :param values: means and factors ``[G, K, D + F]``, int8, float16 or float32.
    :param numbers: scale of the mean, scale of the factors and weight ``[G, K, 3]``, float32. Weights sum to 1 over
        ``K``; a density with fewer components has weights of 0.
    """

    kind: DensityKind
    dim: int
    values: torch.Tensor
    numbers: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def components(self) -> int:
        """``K``, components that every density has room for."""
        return self.values.shape[1]

    @property
    def means(self) -> torch.Tensor:
        """``[G, K, D]``, float32."""
        return self.values[..., : self.dim].float() * self.numbers[..., :1]

    @property
    def factors(self) -> torch.Tensor:
        """``[G, K, F]``, float32."""
        factors = self.values[..., self.dim :].float() * self.numbers[..., 1:2]
        return factors if self.kind == "full" else factors.clamp_min(math.sqrt(FLOOR))

    @property
    def weights(self) -> torch.Tensor:
        """``[G, K]``, float32."""
        return self.numbers[..., 2]

    def rows(self, index: slice | tuple[torch.Tensor, torch.Tensor]) -> Densities:
        """Some densities, or single components of some."""
        return Densities(self.kind, self.dim, self.values[index], self.numbers[index])


def make_densities(
    kind: DensityKind,
    means: torch.Tensor,
    factors: torch.Tensor,
    weights: torch.Tensor,
    precision: DensityPrecision = "fp32",
) -> Densities:
    """Densities from means ``[G, K, D]``, factors ``[G, K, F]`` and weights ``[G, K]``.

    >>> small = torch.tensor([[[2.0, -3e-6]]])
    >>> make_densities("prototype", small, small[..., :0], torch.ones(1, 1), "fp16").means.tolist()
    [[[2.0, -2.9802322387695312e-06]]]
    """
    (mean_values, mean_scale), (factor_values, factor_scale) = _scaled(means, precision), _scaled(factors, precision)
    numbers = torch.stack([mean_scale, factor_scale, weights], -1).float()
    return Densities(kind, means.shape[-1], torch.cat([mean_values, factor_values], -1), numbers)


def concatenated(parts: Sequence[Densities]) -> Densities:
    """One after the other; all have the same kind, dimension, number of components and precision."""
    values, numbers = torch.cat([p.values for p in parts]), torch.cat([p.numbers for p in parts])
    return Densities(parts[0].kind, parts[0].dim, values, numbers)


def draw(densities: Densities, index: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """One sample of each density named by ``index``.

    A prototype gives its mean; k-means a centre by its share, with isotropic noise if a variance is kept.

    :param index: int64 ``[n]``, into the densities.
    :return: float32 ``[n, D]``.

    >>> from avalanche_vlm.memory.density_fit import fit_density
    >>> prototype = fit_density(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), "prototype")
    >>> draw(prototype, torch.tensor([0, 0])).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    component = torch.zeros_like(index)
    if densities.components > 1:
        component = torch.multinomial(densities.weights[index], 1, generator=generator)[:, 0]
    means = densities.rows((index, component)).means
    if densities.values.shape[-1] == densities.dim:
        return means
    noise = torch.randn(means.shape, generator=generator)
    if densities.kind != "full":
        return means + noise * densities.rows((index, component)).factors
    # A factor for every sample, not for every density: the cost does not grow with the past.
    factors = triangles(densities.rows((index, component)))
    with torch.autocast("cpu", enabled=False):
        return means + (factors @ noise[..., None])[..., 0]


def log_prob(densities: Densities, x: torch.Tensor) -> torch.Tensor:
    """How well each sample fits each density; every sample is weighed by itself.

    The log density of ``"diagonal"``, ``"full"`` and ``"gmm"``. ``"prototype"`` and ``"kmeans"`` give minus half the
    squared distance to the nearest mean: the log density of unit variance, without its constant and the shares.

    :param x: ``[B, D]`` on any device.
    :return: float32 ``[B, G]`` on that device.

    >>> from avalanche_vlm.memory.density_fit import fit_density
    >>> prototype = fit_density(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), "prototype")
    >>> log_prob(prototype, torch.tensor([[1.0, 3.0]])).tolist()
    [[-2.0]]
    """
    if x.ndim != 2 or x.shape[1] != densities.dim:
        raise InputError(f"features have the shape [B, {densities.dim}] in this memory, not {list(x.shape)}")
    x = x.float()
    columns = [x.new_zeros(len(x), 0)]
    for g in range(len(densities)):
        one = densities.rows(slice(g, g + 1))
        one = Densities(one.kind, one.dim, one.values.to(x.device), one.numbers.to(x.device))
        columns.append(_log_prob_of_one(one, x)[:, None])
    return torch.cat(columns, 1)


def moved(densities: Densities, before: torch.Tensor, after: torch.Tensor, sigma: float = 0.3) -> Densities:
    """Means follow the drift of current data: semantic drift compensation (Yu et al., arXiv 2004.00440).

    Every mean moves by the average of ``after - before`` with the weights
    ``exp(-||before_i - mean||^2 / (2 sigma^2))``. The average is a softmax, so that a mean far from all data follows
    the nearest of them. Spreads stay.

    :param before: features of the same samples before and after an update ``[N, D]``.
    :param sigma: more than 0, in the unit of the features.

    >>> from avalanche_vlm.memory.density_fit import fit_density
    >>> prototype = fit_density(torch.tensor([[1.0, 0.0]]), "prototype")
    >>> moved(prototype, torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.5]])).means.tolist()
    [[[1.0, 0.5]]]
    """
    before, drift = before.detach().cpu().double(), (after.detach().double() - before.detach().double()).cpu()
    means = densities.means.double()
    # Over densities and not all at once: the distances of many means to many samples are large.
    steps = [torch.softmax(-torch.cdist(m, before).square() / (2 * sigma**2), -1) @ drift for m in means]
    (precision,) = (name for name in get_args(DensityPrecision) if DTYPES[name] == densities.values.dtype)
    values, numbers = densities.values.clone(), densities.numbers.clone()
    values[..., : densities.dim], numbers[..., 0] = _scaled(means + torch.stack(steps), precision)
    return Densities(densities.kind, densities.dim, values, numbers)


def _log_prob_of_one(one: Densities, x: torch.Tensor) -> torch.Tensor:
    means, weights = one.means[0], one.weights[0]
    difference = x[:, None] - means
    if one.kind in ("prototype", "kmeans"):
        squared = difference.square().sum(-1).masked_fill(weights == 0, torch.inf)
        return -0.5 * squared.min(1).values
    constant = 0.5 * one.dim * math.log(2 * math.pi)
    if one.kind == "full":
        factor = triangles(one)[0, 0]
        whitened = torch.linalg.solve_triangular(factor, difference[:, 0].T, upper=False)
        return -0.5 * whitened.square().sum(0) - factor.diagonal().log().sum() - constant
    deviations = one.factors[0]
    exponents = -0.5 * (difference / deviations).square().sum(-1) - deviations.log().sum(-1) - constant
    return torch.logsumexp(exponents + weights.log(), 1)


def triangles(components: Densities) -> torch.Tensor:
    """The Cholesky factors ``[..., D, D]`` of full covariances.

    :param components: any number of single components, as ``rows`` gives them.
    """
    rows, columns = torch.tril_indices(components.dim, components.dim, device=components.values.device)
    factors = components.factors
    full = factors.new_zeros(*factors.shape[:-1], components.dim, components.dim)
    full[..., rows, columns] = factors
    full.diagonal(dim1=-2, dim2=-1).clamp_(min=math.sqrt(FLOOR))
    return full


def _scaled(part: torch.Tensor, precision: DensityPrecision) -> tuple[torch.Tensor, torch.Tensor]:
    """Values ``[G, K, M]`` in the given precision and the scale ``[G, K]`` that gives back the originals."""
    if precision == "fp32":
        return part.float(), torch.ones_like(part[..., :1].sum(-1))
    largest = torch.nn.functional.pad(part.abs(), (0, 1)).amax(-1).float()
    # Below, the products of scale and values would leave the range of single precision.
    scale = torch.where(largest > 1e-30, largest, 1.0)
    if precision == "int8":
        scale = scale / 127
        return (part / scale[..., None]).round().to(torch.int8), scale
    return (part / scale[..., None]).half(), scale


def zero_padded(part: torch.Tensor, length: int) -> torch.Tensor:
    """Zeros after the rows of ``part``, up to ``length`` rows."""
    return torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])])
