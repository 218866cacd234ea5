"""Fusion with the zero-shot answer where that is a class one has learned, and nowhere else."""

from __future__ import annotations

import math

import torch
from torch import nn

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.heads.analytic.base import Estimator, widened

SMALLEST = 1e-4
"""Scores above this are taken for probabilities."""


def log_scores(scores: torch.Tensor) -> torch.Tensor:
    """The logarithm, continued below :data:`SMALLEST` (where a regression gives what no probability can be) with the
    same value and slope there, and rising everywhere: no order is lost.

    >>> log_scores(torch.tensor([1.0, 1e-4, 0.0, -1.0]).double()).round(decimals=3).tolist()
    [0.0, -9.21, -9.903, -18.421]
    """
    below = math.log(SMALLEST) - torch.log1p((SMALLEST - scores).clamp_min(0) / SMALLEST)
    return torch.where(scores >= SMALLEST, scores.clamp_min(SMALLEST).log(), below)


def fuse(logits: torch.Tensor, estimates: torch.Tensor, known: torch.Tensor, weight: float) -> torch.Tensor:
    """Log-probabilities ``[B, C]`` of ``(1 - weight) softmax(logits) + weight estimates`` (RAIL's fusion, arXiv
    2406.18868).

    An estimate counts for known classes only, and with the weight 1 nothing but they can be the answer.

    :param logits: zero-shot ``[B, C]``, ``MASKED`` for classes that do not compete.
    :param estimates: estimates of the classes' probabilities, ``[B, C]``.
    :param known: bool ``[C]``, which classes were learned.
    :param weight: weight of the estimates in the mixture, in [0, 1].
    """
    competes = logits != MASKED
    if weight == 1:
        competes = competes & known
    mixed = (1 - weight) * logits.to(estimates.dtype).softmax(1) + weight * estimates * known
    logarithms = log_scores(mixed).masked_fill(~competes, -torch.inf).log_softmax(1)
    return logarithms.to(logits.dtype).masked_fill(~competes, MASKED)


class AnalyticHead(nn.Module):
    """An estimator in closed form behind RAIL's gate (Xu et al., arXiv 2406.18868), as a
    :attr:`~avalanche_vlm.models.VLM.class_head`.

    Where the zero-shot answer is a class that was learned, the head answers with the mixture of :func:`fuse`; where it
    is not, the zero-shot logits stand, bit for bit. Each sample is answered for itself.

    The answer is that among the classes that compete: all of the union under the label space ``"union"``, under
    ``"seen"`` those trained so far (and the sample's own task's, if that was never trained), and under ``"task"`` those
    of the sample's task. So it is the published gate
    under ``"union"`` alone, and under ``"task"`` it is the question whether the task was learned.

    What comes out of the mixture are log-probabilities. A ridge regression of one-hot labels estimates probabilities
    without being bound to [0, 1]; :func:`log_scores` says what is done outside. The authors compare the mixture as it
    is: the order of the classes is theirs.

    :param estimator: estimates how probable the learned classes are.
    :param weight: weight of its estimates in the mixture, in [0, 1]; published: 0.8. With 1 it decides alone among the
        classes learned.
    :raises InputError: for a weight out of its range.
    """

    def __init__(self, estimator: Estimator, weight: float = 0.8) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise InputError(f"the weight of the estimates is from 0 to 1, not {weight}")
        self.estimator = estimator
        self.weight = weight

    def fit(self, features: torch.Tensor, y: torch.Tensor) -> None:
        """Take in another experience: unit-length features ``[N, D]`` and class ids ``[N]``."""
        self.estimator.fit(features, y)

    def forward(self, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, C]``.

        :param features: image features of unit length ``[B, D]``.
        :param logits: zero-shot ``[B, C]``, ``MASKED`` for classes that do not compete.
        :raises InputError: if a class was learned that is not among them.
        """
        known, classes = self.estimator.known, logits.shape[1]
        if len(known) > classes:
            raise InputError(f"the head has learned class id {len(known) - 1}, but there are only {classes} classes")
        if not len(known):
            return logits
        every = widened(known, classes)
        (told,) = on_host(every[logits.argmax(1)]).nonzero(as_tuple=True)
        if not len(told):
            return logits
        rows = to_device(told, logits.device)
        competes = logits[rows, : len(known)] != MASKED
        estimates = widened(self.estimator(features[rows], competes), classes)
        return logits.index_copy(0, rows, fuse(logits[rows], estimates, every, self.weight))

    def stored(self) -> StoredBytes:
        """Bytes of the estimator's state."""
        return self.estimator.stored()
