"""Keeping less of densities: in half precision, with fewer numbers, with fewer components."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.densities import (
    DTYPES,
    Densities,
    DensityKind,
    DensityPrecision,
    make_densities,
    triangles,
    zero_padded,
)
from avalanche_vlm.memory.rows import whole


class Level(NamedTuple):
    """How much is kept of each density."""

    kind: DensityKind
    precision: DensityPrecision
    components: int


def levels(start: Level) -> list[Level]:
    """The ways to keep less, from ``start`` down to prototypes of one byte per number.

    >>> [tuple(level) for level in levels(Level("full", "fp16", 1))][1:]
    [('diagonal', 'fp16', 1), ('prototype', 'fp16', 1), ('prototype', 'int8', 1)]
    """
    ladder = [start, start._replace(precision="fp16")] if start.precision == "fp32" else [start]
    if start.kind == "full":
        ladder.append(Level("diagonal", "fp16", 1))
    while ladder[-1].components > 1:
        ladder.append(ladder[-1]._replace(components=(ladder[-1].components + 1) // 2))
    if start.kind != "prototype":
        ladder.append(Level("prototype", "fp16", 1))
    return ladder if start.precision == "int8" else [*ladder, Level("prototype", "int8", 1)]


def described(level: Level) -> str:
    """A level in words.

    :param level: kind, precision and components of densities.

    >>> described(Level("full", "fp16", 1)), described(Level("gmm", "fp16", 4))
    ('full in fp16', 'gmm with 4 components in fp16')
    """
    components = f" with {level.components} components" if level.kind in ("gmm", "kmeans") else ""
    return f"{level.kind}{components} in {level.precision}"


def density_bytes(level: Level, dim: int, spread: bool = True) -> int:
    """Bytes of one density.

    >>> density_bytes(Level("full", "fp16", 1), 128)
    16780
    """
    return level.components * ((dim + width(level.kind, dim, spread)) * DTYPES[level.precision].itemsize + 12)


def width(kind: DensityKind, dim: int, spread: bool = True) -> int:
    """Factors per component, ``F``."""
    return {"prototype": 0, "kmeans": int(spread), "full": dim * (dim + 1) // 2}.get(kind, dim)


def lowered(densities: Densities, level: Level) -> Densities:
    """The same densities at a lower level, from what is kept alone.

    Components are merged two by two, the nearest means first, such that the mean and the variance of the whole density
    stay (of ``"kmeans"``: the variance summed over dimensions). A full covariance keeps its diagonal, a prototype is
    the mean of the whole.

    :param level: one of :func:`levels` of the present one.

    >>> from avalanche_vlm.memory.density_fit import fit_density
    >>> pair = fit_density(torch.tensor([[-1.0], [1.0]]), "gmm", components=2)
    >>> one = lowered(pair, Level("gmm", "fp32", 1))
    >>> one.means.round(decimals=4).tolist(), one.factors.round(decimals=4).tolist()
    ([[[0.0]]], [[[1.0]]])
    """
    while densities.components > level.components and level.kind == densities.kind:
        densities = _halved(densities)
    means, weights = densities.means, densities.weights
    if level.kind == densities.kind:
        factors = densities.factors
    elif level.kind == "diagonal":
        # One after the other: all factors in full would be twice as large as what is kept.
        parts = (triangles(densities.rows(slice(g, g + 1)))[0] for g in range(len(densities)))
        factors = torch.stack([torch.linalg.vector_norm(factor, dim=2) for factor in parts])
    else:
        means = (weights[..., None] * means).sum(1, keepdim=True)
        factors, weights = means[..., :0], torch.ones_like(weights[:, :1])
    return make_densities(level.kind, means, factors, weights, level.precision)


def check_level(level: Level) -> None:
    """:raises InputError: for an unknown name or fewer than one component."""
    if level.kind not in get_args(DensityKind):
        raise InputError(f"a density is {', '.join(get_args(DensityKind))}, not {level.kind!r}")
    if level.precision not in get_args(DensityPrecision):
        raise InputError(f"precision is {' or '.join(get_args(DensityPrecision))}, not {level.precision!r}")
    if level.precision == "int8" and level.kind != "prototype":
        raise InputError(f"only prototypes are kept in int8, not {level.kind}: a spread would be lost in the rounding")
    whole(level.components, 1, "components")


def _halved(densities: Densities) -> Densities:
    target = (densities.components + 1) // 2
    merged = []
    for g in range(len(densities)):
        there = densities.weights[g] > 0
        parts = (densities.means[g], densities.factors[g].square(), densities.weights[g])
        means, variances, weights = (part[there].double() for part in parts)
        while len(weights) > target:
            means, variances, weights = _merge_nearest(means, variances, weights)
        merged.append([zero_padded(part, target) for part in (means, variances.sqrt(), weights)])
    means, factors, weights = (torch.stack(part) for part in zip(*merged, strict=True))
    return make_densities(densities.kind, means, factors, weights)


def _merge_nearest(means: torch.Tensor, variances: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    count = len(weights)
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    pair = torch.tensor(divmod(int(distances.fill_diagonal_(torch.inf).argmin()), count))
    weight = weights[pair].sum()
    share = (weights[pair] / weight)[:, None]
    mean = (share * means[pair]).sum(0)
    offsets = (means[pair] - mean).square()
    if variances.shape[1] != means.shape[1]:
        offsets = offsets.mean(1, keepdim=True)[:, : variances.shape[1]]
    variance = (share * (variances[pair] + offsets)).sum(0)
    rest = torch.tensor([i for i in range(count) if i not in pair], dtype=torch.long)
    old, new = (means, variances, weights), (mean, variance, weight)
    return tuple(torch.cat([part[rest], one[None]]) for part, one in zip(old, new, strict=True))
