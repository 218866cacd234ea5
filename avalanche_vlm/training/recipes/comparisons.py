"""What several recipes ask of a model and its teacher on the same pairs."""

from __future__ import annotations

import torch

from avalanche_vlm.losses.alignment import soft_alignment
from avalanche_vlm.losses.distillation import logit_distillation
from avalanche_vlm.training.plugins import Comparison


def distilled_and_aligned(
    c: Comparison,
    *,
    weight: float,
    temperature: float,
    alignment: float,
    label_smoothing: float,
    column_per_pair: bool = False,
) -> torch.Tensor:
    """``weight * KD + alignment * soft_alignment`` on a batch of pairs and its own captions.

    A function of the module and not of a recipe, so that plugins that hold it can be copied and pickled.

    :param c: a batch of pairs as the model and its teacher see it.
    :param weight: weight of the distillation, rows and columns added.
    :param temperature: temperature of the distillation, above 0.
    :param alignment: weight of the two-way cross-entropy, equal captions matching each other.
    :param label_smoothing: label smoothing of the alignment, at least 0 and below 1.
    :param column_per_pair: whether a caption counts as often as it is in the batch; by default each caption is one
        column, however many pictures it has.
    :return: the loss, a scalar.
    """
    logits = (c.logits(), c.teacher.logits, c.matches)
    student, teacher, matches = (x[:, c.text_of_image] for x in logits) if column_per_pair else logits
    distilled = logit_distillation(student, teacher, temperature)
    return weight * distilled + alignment * soft_alignment(student, matches, label_smoothing)
