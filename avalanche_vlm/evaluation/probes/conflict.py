"""Whether tasks pull at the same weights, as pure functions. This module imports torch alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

Tensors = Mapping[str, torch.Tensor | None]
"""By the name of a parameter; None where it has no gradient."""
ParameterBlocks = Mapping[str, Sequence[str]]
"""The names of the parameters of every block."""


@torch.no_grad()
def gradient_cosines(first: Tensors, second: Tensors, blocks: ParameterBlocks) -> dict[str, float]:
    """Cosine of two gradients in every block. Below 0 they conflict: a small step along one raises the other's loss
    (Yu et al., PCGrad, arXiv 2001.06782, definition 1, there over all weights at once).

    :param first: gradients of one task by parameter.
    :param second: gradients of another task by parameter.
    :param blocks: names of parameters by block; a parameter without a gradient counts as 0.
    :return: cosines in [-1, 1] by block; NaN for a block in which either gradient is 0 or absent.

    >>> first = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0])}
    >>> second = {"a": torch.tensor([-3.0, 4.0]), "b": None}
    >>> cosines = gradient_cosines(first, second, {"one": ["a"], "two": ["b"], "all": ["a", "b"]})
    >>> {block: round(cosine, 3) for block, cosine in cosines.items()}
    {'one': -0.6, 'two': nan, 'all': -0.424}
    """
    found = {}
    for block, names in blocks.items():
        both = [_known(side, names) for side in (first, second)]
        dot = _total(_dot(tensor, both[1][name]) for name, tensor in both[0].items() if name in both[1])
        squares = [_total(_dot(tensor, tensor) for tensor in side.values()) for side in both]
        norm = (squares[0] * squares[1]) ** 0.5
        found[block] = max(-1.0, min(1.0, dot / norm)) if norm > 0 else float("nan")
    return found


def negative_share(cosines: Iterable[float]) -> float:
    """Share of pairs that conflict, in [0, 1]: of those that are not NaN, of which there may be none (NaN).

    :param cosines: cosine of each pair's gradients.

    >>> negative_share([-0.5, 0.5, 0.25, float("nan"), -0.1])
    0.5
    """
    found = [cosine for cosine in cosines if cosine == cosine]
    return sum(cosine < 0 for cosine in found) / len(found) if found else float("nan")


@torch.no_grad()
def weighted_update(before: Tensors, after: Tensors, weights: Tensors, blocks: ParameterBlocks) -> dict[str, float]:
    """``sum F (theta_after - theta_before)^2`` in every block.

    With F the diagonal Fisher information of earlier tasks, half of it is the second-order estimate of how far (in
    nats of KL divergence per sample) the update moves what the model says about them: what EWC holds down (Kirkpatrick
    et al., arXiv 1612.00796, eq. 3).

    :param before: parameters by name before the update.
    :param after: parameters by name after it.
    :param weights: weights F by parameter, at least 0. What is missing in one of the three, or changed its shape, is
        left out.
    :param blocks: names of parameters by block.
    :return: sums by block, at least 0; NaN for a block of which nothing is known.

    >>> before, after = {"a": torch.zeros(2)}, {"a": torch.tensor([1.0, 3.0])}
    >>> weighted_update(before, after, {"a": torch.tensor([2.0, 1.0])}, {"one": ["a"], "two": ["b"]})
    {'one': 11.0, 'two': nan}
    """
    found = {}
    for block, names in blocks.items():
        start, end, weight = (_known(side, names) for side in (before, after, weights))
        known = [n for n in start if n in end and n in weight and start[n].shape == end[n].shape == weight[n].shape]
        parts = (_dot(weight[n], (end[n] - start[n]).square()) for n in known)
        found[block] = _total(parts) if known else float("nan")
    return found


def _known(tensors: Tensors, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors that are there, in the order of the names."""
    return {name: tensor for name in names if (tensor := tensors.get(name)) is not None}


def _dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * y).sum(dtype=torch.float64)


def _total(parts: Iterable[torch.Tensor]) -> float:
    """One transfer for all of a block, not one for each parameter."""
    parts = list(parts)
    return torch.stack(parts).sum().item() if parts else 0.0
