"""Whether tasks pull at the same weights, as pure functions. This module imports torch alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

Tensors = Mapping[str, torch.Tensor | None]
"""By the name of a parameter; None where it has no gradient."""
Blocks = Mapping[str, Sequence[str]]
"""The names of the parameters of every block."""


@torch.no_grad()
def gradient_cosines(first: Tensors, second: Tensors, blocks: Blocks) -> dict[str, float]:
    """Cosine of two gradients in every block. Below 0 they conflict: a small step along one raises the other's loss
    (Yu et al., PCGrad, arXiv 2001.06782, definition 1, there over all weights at once).

    :param first: gradients by parameter.
    :param second: likewise.
    :param blocks: parameters by block; one without a gradient counts as 0.
    :return: in [-1, 1]; NaN for a block in which either gradient is 0 or absent.

    >>> first = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0])}
    >>> second = {"a": torch.tensor([-3.0, 4.0]), "b": None}
    >>> cosines = gradient_cosines(first, second, {"one": ["a"], "two": ["b"], "all": ["a", "b"]})
    >>> {block: round(cosine, 3) for block, cosine in cosines.items()}
    {'one': -0.6, 'two': nan, 'all': -0.424}
    """
    found = {}
    for block, names in blocks.items():
        dot = _total(_dot(first[n], second[n]) for n in names if _there(first, n) and _there(second, n))
        squares = [_total(_dot(side[n], side[n]) for n in names if _there(side, n)) for side in (first, second)]
        norm = (squares[0] * squares[1]) ** 0.5
        found[block] = max(-1.0, min(1.0, dot / norm)) if norm > 0 else float("nan")
    return found


def negative_share(cosines: Iterable[float]) -> float:
    """Share of pairs that conflict, in [0, 1]: of those that are not NaN, of which there may be none (NaN).

    >>> negative_share([-0.5, 0.5, 0.25, float("nan"), -0.1])
    0.5
    """
    found = [cosine for cosine in cosines if cosine == cosine]
    return sum(cosine < 0 for cosine in found) / len(found) if found else float("nan")


@torch.no_grad()
def weighted_update(before: Tensors, after: Tensors, weights: Tensors, blocks: Blocks) -> dict[str, float]:
    """``sum F (theta_after - theta_before)^2`` in every block.

    With F the diagonal Fisher information of earlier tasks, half of it is the second-order estimate of how far (in
    nats of KL divergence per sample) the update moves what the model says about them: what EWC holds down (Kirkpatrick
    et al., arXiv 1612.00796, eq. 3).

    :param before: parameters by name.
    :param after: likewise.
    :param weights: likewise, at least 0. What is missing in one of the three, or changed its shape, is left out.
    :param blocks: parameters by block.
    :return: at least 0; NaN for a block of which nothing is known.

    >>> before, after = {"a": torch.zeros(2)}, {"a": torch.tensor([1.0, 3.0])}
    >>> weighted_update(before, after, {"a": torch.tensor([2.0, 1.0])}, {"one": ["a"], "two": ["b"]})
    {'one': 11.0, 'two': nan}
    """
    found = {}
    for block, names in blocks.items():
        known = [n for n in names if all(_there(side, n) for side in (before, after, weights))]
        known = [n for n in known if before[n].shape == after[n].shape == weights[n].shape]
        parts = (_dot(weights[n], (after[n] - before[n]).square()) for n in known)
        found[block] = _total(parts) if known else float("nan")
    return found


def _there(tensors: Tensors, name: str) -> bool:
    return tensors.get(name) is not None


def _dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * y).sum(dtype=torch.float64)


def _total(parts: Iterable[torch.Tensor]) -> float:
    """One transfer for all of a block, not one for each parameter."""
    parts = list(parts)
    return torch.stack(parts).sum().item() if parts else 0.0
