"""How right the answers of a classifier are, where classes may tie."""

from __future__ import annotations

import torch

from avalanche_vlm.models.competing import MASKED

ROUNDING = 64 * torch.finfo(torch.float32).eps
"""Logits that differ by less than this share of the best one, or of 1 where that is more, are equal: products of equal
features, times CLIP's scale of 100, differ by half as much with their position in a matrix (on an AMD EPYC; on an Intel
Xeon by less)."""


def rightness(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How right each answer is, by expectation: 1 where the true class has the best logit alone, and 1 / n where it is
    one of n classes that have it, so that ties decide neither for the model nor against it. A model to which all C
    classes are equal is right in 1 / C of all cases, as guessing is.

    :param logits: logits ``[B, C]``, ``MASKED`` for classes that do not compete; where none does, or the best is NaN,
        there is no answer and nothing is right.
    :param y: class ids ``[B]``, of which one without a column is never right; or bool ``[B, C]``, which answers are
        true where several are.
    :return: float64 ``[B]`` in [0, 1].

    >>> logits = torch.tensor([[1.0, 3.0, 2.0], [2.0, 2.0, 1.0], [0.0, 0.0, 0.0], [MASKED, MASKED, MASKED]])
    >>> rightness(logits, torch.tensor([1, 1, 2, 0])).round(decimals=3).tolist()
    [1.0, 0.5, 0.333, 0.0]
    """
    masked = logits.new_tensor(MASKED).float()  # half precision rounds it
    logits = logits.float()
    best = logits.amax(1, keepdim=True)
    tied = (logits == best) | (logits >= best - ROUNDING * best.abs().clamp_min(1))
    tied &= (best != masked) & (best != -torch.inf)
    y = y.to(logits.device)
    true = y if y.ndim == 2 else torch.arange(logits.shape[1], device=logits.device) == y[:, None]
    return (tied & true).sum(1).double() / tied.sum(1).clamp_min(1)
