"""How right the answers of a classifier are, where classes may tie."""

from __future__ import annotations

import torch

from avalanche_vlm._host import to_device
from avalanche_vlm.errors import NotFinite
from avalanche_vlm.models.competing import MASKED

ROUNDING = 64 * torch.finfo(torch.float32).eps
"""Logits that differ by less than this share of the best one, or of 1 where that is more, are equal: products of equal
features, times CLIP's scale of 100, differ by half as much with their position in a matrix (on an AMD EPYC; on an Intel
Xeon by less)."""


def rightness(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How right each answer is, by expectation: 1 where the true class has the best logit alone, and 1 / n where it is
    one of n classes that have it, so that ties decide neither for the model nor against it. A model to which all C
    classes are equal is right in 1 / C of all cases, as guessing is.

    Logits that are NaN or infinite are no answer, neither right nor wrong: they stay NaN without a look at the device,
    until whoever reads the answers of a whole data set refuses them (:func:`answered`).

    :param logits: logits ``[B, C]``, ``MASKED`` or minus infinity for classes that do not compete; where all are
        ``MASKED``, nothing is right.
    :param y: class ids ``[B]``, of which one without a column is never right; or bool ``[B, C]``, which answers are
        true where several are.
    :return: float64 ``[B]`` in [0, 1], NaN for rows with a NaN or plus infinity, or with minus infinity alone.

    >>> logits = torch.tensor([[1.0, 3.0, 2.0], [2.0, 2.0, 1.0], [0.0, 0.0, 0.0], [MASKED, MASKED, MASKED]])
    >>> rightness(logits, torch.tensor([1, 1, 2, 0])).round(decimals=3).tolist()
    [1.0, 0.5, 0.333, 0.0]
    """
    masked = float(torch.tensor(MASKED, dtype=logits.dtype))  # half precision rounds it
    logits = logits.float()
    best = logits.amax(1, keepdim=True)
    tied = (logits == best) | (logits >= best - ROUNDING * best.abs().clamp_min(1))
    tied &= (best != masked) & (best != -torch.inf)
    y = to_device(y, logits.device)
    true = y if y.ndim == 2 else torch.arange(logits.shape[1], device=logits.device) == y[:, None]
    right = (tied & true).sum(1).double() / tied.sum(1).clamp_min(1)
    return right.masked_fill(~best[:, 0].isfinite(), torch.nan)  # of a NaN among them the largest is NaN


def answered(right: torch.Tensor) -> torch.Tensor:
    """Answers of which each is one.

    :param right: how right each is ``[N]``, as :func:`rightness` gives it for the samples of a data set.
    :return: the answers as they were given.
    :raises NotFinite: if there are some that are not; the only look at the device that it takes.

    >>> answered(rightness(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))).tolist()
    [1.0]
    """
    refuse_broken(int(right.isnan().sum()), len(right))
    return right


def refuse_broken(broken: int, of: int, what: str = "logits") -> None:
    """Refuse answers that are none.

    :param broken: how many samples have numbers that are NaN or infinite.
    :param of: number of all samples.
    :param what: what those numbers are, in the plural.
    :raises NotFinite: if there are any.
    """
    if broken:
        raise NotFinite(f"the {what} of {broken} of {of} samples are NaN or infinite")
