"""Regularization by the distillation of similarity matrices."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch

from avalanche_vlm.losses.similarity import two_way
from avalanche_vlm.losses.topology import FeatureQueue, momentum_contrast, topology_preservation
from avalanche_vlm.memory.state import KEPT, Stateful
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import Comparison, DistillationPlugin
from avalanche_vlm.training.recipes.declaration import AdamW, Plugins, Published, Unpublished
from avalanche_vlm.training.recipes.facts import LIKE_FINE_TUNING, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import Count, NonNegative, Positive, Share
from avalanche_vlm.training.recipes.registry import recipe
from avalanche_vlm.training.reference import CurrentBatch
from avalanche_vlm.training.teachers import MomentumTeacher, PreviousTeacher
from avalanche_vlm.training.teachers.base import Side, TeacherPolicy


@recipe(
    "mod-x",
    family="CREG",
    summary="similarities within the batch stay as the previous model had them, where it was right",
    paper=["2305.07437"],
    training=[
        Published(
            source="the authors' code, ModX_Training/modx_5phase.sh and ModX_Training/continue_train_model.py",
            benchmark="Flickr30K in five parts, a ResNet-50 from COCO",
            optimizer="AdamW",
            lr=5e-4,
            weight_decay=0.1,
            schedule="cosine",
            label_smoothing=0.0,
            epochs=35,
            batch_size=280,
            note="warm-up over a fifth of the iterations; the logit scale trains, and is held between 1 and 100",
        )
    ],
    adamw=AdamW(1e-5, "since the published rate is for a model from scratch: as whole towers are fine-tuned on MTIL"),
    picturebook=WHOLE_TOWERS,
)
def mod_x(model: VLM, *, weight: NonNegative = 20.0, temperature: Positive = 1.0) -> Plugins:
    """Mod-X: the similarities of the batch, off the diagonal above all, stay as the previous model had them, rows and
    columns in which that model errs excepted (Ni et al., arXiv 2305.07437).

    ``weight * B * two_way(cosines)`` for a batch of B: the authors' code takes plain cosines, sums over the rows where
    :func:`~avalanche_vlm.losses.similarity.two_way` takes their mean, halves the sum of the two directions, and weighs
    it by 20, on matrices of 280 pairs. The factor B makes their weight ours. As there, the sum grows with the batch and
    the task loss does not. In the first task the previous model is the pretrained one, which is where the authors
    start, too. The texts are the captions of the batch, or the prompts of its classes.

    Differs from the code: a caption that is there twice is one column, and right for both its images; a tie is right.

    :param weight: weight of the sum over rows, halved over the directions.
    :param temperature: number that divides the cosines.
    """

    loss = partial(_mod_x, weight=weight, temperature=temperature)
    return [DistillationPlugin(model, loss, CurrentBatch("batch"), PreviousTeacher())]


@recipe(
    "dkr",
    family="CREG",
    summary="similarities within the batch follow the previous model, corrected where it was wrong",
    paper=["AAAI 2024, Cui et al."],
    training=[Unpublished("the authors' code is not public, and the paper's settings are not known to us")],
    adamw=LIKE_FINE_TUNING,
    picturebook=WHOLE_TOWERS,
)
def dkr(model: VLM, *, weight: NonNegative = 1.0, temperature: Positive = 1.0) -> Plugins:
    """DKR: the batch follows the previous model's similarities, rectified: that model's row where it is right, the
    current model's where only that one is, the truth where neither is (Cui et al., "Continual Vision-Language Retrieval
    via Dynamic Knowledge Rectification", AAAI 2024).

    The authors' code is not public. Ours is the weight 1 of the paper, the mean over the rows and over the two
    directions, each judged by itself, and the model's own scale, at which the truth of a row counts as in the
    contrastive task loss. In the first task the previous model is the pretrained one. The texts are the captions of the
    batch, or the prompts of its classes.

    :param weight: weight of the mean over rows and directions; the paper's lambda.
    :param temperature: number that divides the scaled similarities.
    """

    loss = partial(_dkr, weight=weight, temperature=temperature)
    return [DistillationPlugin(model, loss, CurrentBatch("batch"), PreviousTeacher())]


@recipe(
    "ctp",
    family="CREG",
    summary="topology of the batch, and contrast with a momentum model between old and new",
    paper=["2308.07146"],
    training=[
        Published(
            source="the authors' code, configs/base_seqF.yaml and train/train_CTP.py",
            benchmark="P9D",
            optimizer="AdamW",
            lr=1e-4,
            weight_decay=0.05,
            schedule="cosine",
            warmup=0,
            label_smoothing=0.0,
            epochs=5,
            batch_size=512,
            note="down to 1e-6; 128 on each of four GPUs; fusion models with masked language modelling",
        )
    ],
    adamw=AdamW(
        1e-5,
        "since the published rate is for other models: as whole towers are fine-tuned on MTIL",
    ),
    picturebook=WHOLE_TOWERS,
)
def ctp(
    model: VLM,
    *,
    topology: NonNegative = 1.0,
    contrast: NonNegative = 1.0,
    temperature: Positive = 0.07,
    queue: Count = 1024,
    decay: Share = 0.9,
    first_decay: Share = 0.995,
) -> Plugins:
    """CTP: contrast against a momentum model between the student and the previous one, and from the second task on the
    topology that the previous model sees in the batch (Zhu et al., arXiv 2308.07146).

    ``contrast * momentum_contrast + topology * topology_preservation`` on the batch's pairs, see
    :mod:`~avalanche_vlm.losses.topology`. All weights are 1 and all temperatures 0.07 in the authors' code. As there,
    the momentum model starts afresh from the student with every task, while the queue goes on with the features that
    earlier momentum models gave.

    Differs from the code: the contrastive task loss is the strategy's, at the model's scale and not at 0.07; the queue
    holds what was pushed and no random vectors; equal captions, or classes, are positives of each other, in the batch
    and in the queue; the parts on masked language modelling are left out, for which CLIP has no head.

    :param topology: weight of the topology preservation.
    :param contrast: weight of the momentum contrast.
    :param temperature: temperature of both, which divides the cosines.
    :param queue: pairs of momentum features that are kept.
    :param decay: decay of the momentum model from the second task on; the rest comes from the student and the previous
        model in equal parts.
    :param first_decay: decay of the momentum model in the first task; the rest comes from the student.
    """
    teachers: list[TeacherPolicy] = [PreviousTeacher(), MomentumTeacher(decay, first_decay)]
    loss = _CTP(topology, contrast, temperature, FeatureQueue(queue, 2 * model.width, model.device))
    return [DistillationPlugin(model, loss, CurrentBatch("batch"), teachers)]


class _CTP(Stateful):
    """CTP's two losses, with the queue of one of them: ``[size, 2 D]``, image features beside their texts'."""

    states: ClassVar = {"queue": KEPT}

    def __init__(self, topology: float, contrast: float, temperature: float, queue: FeatureQueue) -> None:
        self.topology, self.contrast, self.temperature, self.queue = topology, contrast, temperature, queue

    def __call__(self, c: Comparison) -> torch.Tensor:
        student, momentum = _pairs(c.student), _pairs(c.teachers[1])
        previous = _pairs(c.teachers[0]) if c.past else None
        keys = torch.cat(momentum, dim=1)
        queued, ids = self.queue.to(keys.device).entries()
        queued_images, queued_texts = queued.chunk(2, dim=1)
        # Neighbours differ by less than what half precision rounds cosines to.
        with torch.autocast(keys.device.type, enabled=False):
            loss = self.contrast * momentum_contrast(
                *student, *momentum, queued_images, queued_texts, self.temperature, c.y, ids
            )
            if previous is not None:
                loss = loss + self.topology * topology_preservation(*student, *previous, self.temperature)
        self.queue.push(keys, c.y)
        return loss


def _pairs(side: Side) -> tuple[torch.Tensor, torch.Tensor]:
    """Image features ``[B, D]`` and those of their texts ``[B, D]``."""
    return side.images, side.paired_texts


# Losses are functions of the module and not of a recipe, so that plugins can be copied and pickled.


def _mod_x(c: Comparison, *, weight: float, temperature: float) -> torch.Tensor:
    mean = two_way(c.student.cosines, c.teacher.cosines, temperature=temperature, rows="mod-x", right=c.matches)
    return weight * len(c.student.images) * mean


def _dkr(c: Comparison, *, weight: float, temperature: float) -> torch.Tensor:
    student, teacher = c.student.logits, c.teacher.logits
    return weight * two_way(student, teacher, temperature=temperature, rows="dkr", right=c.matches)
