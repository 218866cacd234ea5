"""Criteria that Avalanche can call as ``criterion(output, y)``."""

from __future__ import annotations

import torch
from torch import nn

from avalanche_vlm.losses.contrastive import multi_positive_contrastive, sigmoid_contrastive
from avalanche_vlm.losses.reduction import Reduction


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


def criterion_for(kind: str, model: nn.Module, label_smoothing: float = 0.0) -> nn.Module:
    """The task loss of a benchmark's kind.

    :param kind: kind of the benchmark's samples, ``"classes"`` or ``"pairs"``.
    :param model: the model that is trained; one with a logit bias (SigLIP) takes the sigmoid loss on pairs.
    :param label_smoothing: label smoothing for classes, in [0, 1); it spreads over the whole label space, so use it
        with ``"union"``.
    """
    if kind == "classes":
        return nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    return ContrastiveCriterion() if getattr(model, "bias", None) is None else SigmoidCriterion()
