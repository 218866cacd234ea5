"""Regularization by the distillation of logits and features."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.losses.distillation import logit_distillation
from avalanche_vlm.losses.features import feature_l2
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import AnchorPenaltyPlugin, Comparison, DistillationPlugin, RunningMeanPlugin
from avalanche_vlm.training.plugins.distillation import StudentSide
from avalanche_vlm.training.plugins.towers import training_towers
from avalanche_vlm.training.recipes.declaration import Paper, Plugins, Published
from avalanche_vlm.training.recipes.facts import FINE_TUNING, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import Count, Natural, NonNegative, Positive, Seed
from avalanche_vlm.training.recipes.registry import recipe
from avalanche_vlm.training.reference import CurrentBatch, ReferenceSet, random_sentences
from avalanche_vlm.training.teachers import InitialTeacher, PreviousTeacher


@recipe(
    "lwf",
    family="CREG",
    summary="distillation of logits on the current images against the prompts of the task",
    paper=[Paper("1606.09282", "eq. 2-4"), Paper("2303.06628", "its form for CLIP")],
    training=[
        FINE_TUNING,
        Published(
            source="ZSCL's code (arXiv 2303.06628)",
            benchmark="class-incremental",
            options={"weight": 5.0},
            note="rows and columns at weight 5 each; the optimizer's settings there are not known to us",
        ),
    ],
    picturebook=WHOLE_TOWERS,
)
def lwf(model: VLM, *, weight: NonNegative = 1.0, temperature: Positive = 2.0) -> Plugins:
    """LwF for CLIP: the current images against the prompts of the current classes (on pairs: the captions of the
    batch), rows and columns, with the previous model as teacher (Li and Hoiem, arXiv 1606.09282, eq. 2-4, as ZSCL's
    code takes it over to CLIP, arXiv 2303.06628, section 4).

    Differs from LwF, which distils the outputs of the *old* classes: a zero-shot head has none to keep, so the authors
    of ZSCL distil the current ones. Both towers of the student are held. In the first task the teacher is the
    pretrained model.

    :param weight: weight of the distillation, rows and columns added.
    :param temperature: temperature of the distillation, above 0.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * logit_distillation(c.logits(), c.teacher.logits, temperature)

    return [DistillationPlugin(model, loss, CurrentBatch("task"), PreviousTeacher())]


@recipe(
    "lwf-vr",
    family="CREG",
    summary="distillation of logits on the current images against random sentences",
    paper=["2207.09248", Paper("2303.06628", "its form for CLIP")],
    training=[FINE_TUNING],
    picturebook=WHOLE_TOWERS.with_options(
        "128 of the 1000 sentences per iteration, which costs less and covers all of them over a task.",
        texts_per_step=128,
    ),
)
def lwf_vr(
    model: VLM,
    *,
    weight: NonNegative = 1.0,
    temperature: Positive = 2.0,
    sentences: Count = 1000,
    words: Count = 10,
    texts_per_step: Natural = 0,
    seed: Seed = 0,
) -> Plugins:
    """LwF-VR: as ``lwf``, against random sentences, which stand for the vocabulary (Ding et al., arXiv 2207.09248,
    section 3.3; 1000 sentences of 10 tokens in ZSCL's code).

    The student encodes the sentences in every iteration, with gradients.

    :param weight: weight of the distillation, rows and columns added.
    :param temperature: temperature of the distillation, above 0.
    :param sentences: number of random sentences.
    :param words: random tokens in each sentence.
    :param texts_per_step: sentences drawn anew for every iteration; 0 for all, as published. What one iteration costs
        grows with it, and the sum over many does not: the draws cover all of them.
    :param seed: seed of the sentences and the draws, 0 or more.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * logit_distillation(c.logits(), c.teacher.logits, temperature)

    tokens = random_sentences(model, sentences, words, seed)
    reference = CurrentBatch(tokens, texts_per_step=texts_per_step or None, seed=seed)
    return [DistillationPlugin(model, loss, reference, PreviousTeacher())]


@recipe(
    "zscl",
    family="CREG",
    summary="distillation on reference pairs, L2 to the task's start, running mean of the weights",
    paper=["2303.06628"],
    training=[
        replace(FINE_TUNING, source="the authors' code"),
        Published(
            source="the authors' code",
            benchmark="class-incremental",
            lr=7.1e-6,
            options={"weight": 5.0, "interval": 10},
            note="rows and columns at weight 5 each",
        ),
    ],
    picturebook=WHOLE_TOWERS.with_options(
        "Weight and interval are those of the authors' class-incremental variant: a task has 50 iterations here.",
        interval=10,
        weight=5.0,
    ),
)
def zscl(
    model: VLM,
    *,
    reference: ReferencePairs,
    batch_size: Count = 64,
    weight: NonNegative = 1.0,
    temperature: Positive = 2.0,
    side: StudentSide = "image",
    l2: NonNegative = 1.0,
    interval: Count = 100,
    seed: Seed = 0,
) -> Plugins:
    """ZSCL: distillation on a reference set from the initial model, L2 to the start of the task, running-mean weights
    (Zheng et al., arXiv 2303.06628, eq. 4-8).

    Defaults are the authors' code on MTIL, where the paper's text and the code agree. There the teacher's text features
    stand on both sides, so that the distillation holds the image tower alone, which the authors call design;
    ``side="both"`` puts the student's texts on its side. Differs from the code: images and captions are encoded by the
    teacher once, and not in every iteration; the running mean of a task shorter than one interval is what was learned,
    and not its start.

    :param reference: pairs to distil on.
    :param batch_size: reference images per iteration, each compared with all captions of the set.
    :param weight: weight of the distillation, rows and columns added.
    :param temperature: temperature of the distillation, above 0.
    :param side: student's features that are compared: ``"image"``, ``"text"`` (the image tower then gets no
        distillation) or ``"both"``. With its texts the student encodes every caption of the set in every iteration.
    :param l2: weight of the distance from the task's start.
    :param interval: iterations between snapshots of the running mean.
    :param seed: seed of the reference batches, 0 or more.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * logit_distillation(c.logits(side), c.teacher.logits, temperature)

    pairs = ReferenceSet(model, reference, batch_size, texts="all", seed=seed)
    return [
        DistillationPlugin(model, loss, pairs, InitialTeacher()),
        AnchorPenaltyPlugin(l2),
        RunningMeanPlugin(interval),
    ]


@recipe(
    "snd",
    family="CREG",
    summary="features of reference images follow the previous or the initial model, whichever a score selects",
    paper=["2403.09296"],
    training=[
        Published(
            source="the authors' code",
            benchmark="their streams of image data sets",
            optimizer="AdamW",
            lr=1e-5,
            weight_decay=5e-4,
            schedule="cosine",
            warmup=0,
            label_smoothing=0.0,
            iterations=1000,
            batch_size=32,
            note="the text tower is frozen",
        )
    ],
    picturebook=WHOLE_TOWERS,
)
def snd(
    model: VLM,
    *,
    reference: ReferencePairs,
    batch_size: Count = 64,
    previous: NonNegative = 9.0,
    initial: NonNegative = 0.5,
    sharpness: NonNegative = 6.0,
    threshold: NonNegative = 0.2,
    towers: Literal["image", "both"] = "image",
    seed: Seed = 0,
) -> Plugins:
    """Select and Distill: reference images follow two teachers, the previous model where it has moved away from the
    initial one and the initial model elsewhere (Yu et al., arXiv 2403.09296, eq. 3-6).

    ``mean(previous * eta * |f - f_previous|^2 + initial * (1 - eta) * |f - f_initial|^2)`` over the images of a batch,
    with ``eta = sigmoid(sharpness * (|f_initial - f_previous| - threshold))`` of each image and features of unit
    length. The image tower alone trains, as in the authors' configurations, which freeze the text side.

    Weights and squares are the authors' code; the paper gives both teachers the same weight. Differs from the code,
    which multiplies every score with every image's distance, so that its mean is ``mean(eta) * mean(|f -
    f_previous|^2)`` and its like: here every image has its own score, as in the paper.

    :param reference: pairs of which the images are used.
    :param batch_size: reference images per iteration.
    :param previous: weight of the previous teacher, 0 or more.
    :param initial: weight of the initial teacher, 0 or more.
    :param sharpness: steepness of the selection, 0 or more.
    :param threshold: distance at which both teachers count alike.
    :param towers: what trains: ``"image"`` freezes the text tower, with ``"both"`` the task loss trains it as well.
    :param seed: seed of the reference batches, 0 or more.
    """
    training_towers(model, ["image"], "SnD")
    if towers == "image":
        model.freeze("text")

    def loss(c: Comparison) -> torch.Tensor:
        before, first = (teacher.images for teacher in c.teachers)
        eta = torch.sigmoid(sharpness * (torch.linalg.vector_norm(first - before, dim=1) - threshold))
        to_previous = feature_l2(c.student.images, before, squared=True, reduction="none")
        to_initial = feature_l2(c.student.images, first, squared=True, reduction="none")
        return (previous * eta * to_previous + initial * (1 - eta) * to_initial).mean()

    pairs = ReferenceSet(model, reference, batch_size, seed=seed)
    return [DistillationPlugin(model, loss, pairs, [PreviousTeacher(), InitialTeacher()])]
