"""Criteria that Avalanche can call as ``criterion(output, y)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.losses.contrastive import multi_positive_contrastive, sigmoid_contrastive
from avalanche_vlm.losses.reduction import Reduction
from avalanche_vlm.models.competing import MASKED


class ContrastiveCriterion(nn.Module):
    """CLIP's symmetric loss on in-batch logits ``[B, B]``; captions of one image, and equal ones, are positives.

    :param reduction: ``"mean"`` over the pairs, or ``"none"`` for one loss per pair (Avalanche's MIR sets it).
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return multi_positive_contrastive(output, y, reduction=self.reduction)


class SigmoidCriterion(nn.Module):
    """SigLIP's loss on in-batch logits ``[B, B]``; captions of one image, and equal ones, are positives.

    :param reduction: ``"mean"`` over the images, or ``"none"`` for one loss per image.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return sigmoid_contrastive(output, y, reduction=self.reduction)


LANES = 16
"""Numbers in single precision that the widest vector instruction sums at once. torch sums rows of fewer columns one by
one and others lane by lane, which rounds otherwise; columns that do not compete add zeros, which round nothing."""


class ClassCriterion(nn.CrossEntropyLoss):
    """Cross-entropy on logits ``[B, classes]``, with targets that are smoothed over the classes that compete.

    torch's spreads the smoothing over every column. A class that does not compete has the logit
    :data:`~avalanche_vlm.models.competing.MASKED`, of which no share can be learned: it alone would make the loss.
    Where nothing is masked this is torch's loss, with weights of classes and targets to ignore as well.

    :param label_smoothing: share of each target that is spread over the classes that compete, at least 0 and below 1.
    :param reduction: ``"mean"`` or ``"sum"`` over the samples, or ``"none"`` for one loss per sample.
    :param weight: weight of each class ``[classes]``; None weighs all alike.
    :param ignore_index: target of the samples that do not count.
    :param columns: logits of fewer columns get columns that do not compete, up to this number. With :data:`LANES` the
        loss is, bit for bit, what it is in a label space that has grown, however many classes that has; with smoothing
        this holds on the CPU, and elsewhere to rounding.
    :raises InputError: for smoothing out of its range.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        *,
        weight: torch.Tensor | None = None,
        ignore_index: int = -100,
        columns: int = 0,
    ) -> None:
        NUMBERS["label_smoothing"].checked(label_smoothing)
        super().__init__(weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction)
        self.columns = columns

    def forward(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        waits = output.device.type != "cpu"  # for every number that is asked for here
        if self.label_smoothing and not waits:
            output, y, weight = self._among_used(output, y)
        elif weight is None and output.shape[1] < self.columns:
            output = F.pad(output, (0, self.columns - output.shape[1]), value=MASKED)
        competes = _competes(output)
        if not self.label_smoothing or (not waits and bool(competes.all())):
            return F.cross_entropy(
                output,
                y,
                weight,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
            )
        hard = F.cross_entropy(output, y, weight, ignore_index=self.ignore_index, reduction="none")
        weights = competes.to(output.dtype) if weight is None else competes * weight
        logs = output.log_softmax(1).masked_fill(~competes, 0)
        counts = y != self.ignore_index
        even = -(weights * logs).sum(1) / competes.sum(1).clamp_min(1) * counts
        losses = (1 - self.label_smoothing) * hard + self.label_smoothing * even
        if self.reduction == "none":
            return losses
        if self.reduction == "sum":
            return losses.sum()
        share = counts if weight is None else counts * weight[y.where(counts, 0)]
        return losses.sum() / share.sum()

    def _among_used(
        self, output: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Logits, targets and weights of the classes that compete for a sample or are a target: how many others there
        are is nothing to a sum over classes then, not even to its rounding."""
        used, counts = _competes(output).any(0), y != self.ignore_index
        used[y[counts]] = True
        if bool(used.all()):
            return output, y, self.weight
        place = used.cumsum(0) - 1
        weight = None if self.weight is None else self.weight[used]
        return output[:, used], torch.where(counts, place[y.where(counts, 0)], y), weight


def _competes(output: torch.Tensor) -> torch.Tensor:
    """Which classes compete: in half precision MASKED is another number, and no similarity comes near half of it."""
    return output > MASKED / 2


def criterion_for(kind: str, model: nn.Module, label_smoothing: float = 0.0) -> nn.Module:
    """The task loss of a benchmark's kind.

    :param kind: kind of the benchmark's samples, ``"classes"`` or ``"pairs"``.
    :param model: the model that is trained; one with a logit bias (SigLIP) takes the sigmoid loss on pairs.
    :param label_smoothing: label smoothing for classes, at least 0 and below 1, over those that compete.
    """
    if kind == "classes":
        space = getattr(model, "label_space", None)
        # Where all classes compete throughout, a stream that goes on brings none as a rule, and torch's sum stays.
        grows = space is not None and space.visible != "union"
        return ClassCriterion(label_smoothing, columns=LANES if grows else 0)
    return ContrastiveCriterion() if getattr(model, "bias", None) is None else SigmoidCriterion()
