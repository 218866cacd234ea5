"""Regularization by the distillation of logits and features."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
from avalanche_vlm.training.recipes.facts import CLASS_INCREMENTAL, FINE_TUNING, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import Count, Members, Natural, NonNegative, Positive, Seed
from avalanche_vlm.training.recipes.registry import recipe
from avalanche_vlm.training.reference import CurrentBatch, CurrentTask, ReferenceSet, random_sentences
from avalanche_vlm.training.teachers import InitialTeacher, PreviousTeacher

LwFImages = Literal["drawn", "batch"]


@recipe(
    "lwf",
    family="CREG",
    summary="distillation of logits on the task's images against its prompts",
    paper=[Paper("1606.09282", "eq. 2-4"), Paper("2303.06628", "its form for CLIP")],
    training=[FINE_TUNING, CLASS_INCREMENTAL],
    picturebook=WHOLE_TOWERS,
)
def lwf(
    model: VLM,
    *,
    weight: NonNegative = 1.0,
    temperature: Positive = 2.0,
    side: StudentSide = "image",
    images: LwFImages = "drawn",
    batch_size: Count = 64,
    seed: Seed = 0,
) -> Plugins:
    """LwF for CLIP: images of the task against the prompts of its classes (on pairs: their captions), rows and columns,
    with the previous model as teacher (Li and Hoiem, arXiv 1606.09282, eq. 2-4, as ZSCL's code takes it over to CLIP,
    arXiv 2303.06628, section 4).

    Defaults are that code on MTIL. The teacher's text features stand on both sides, so that the distillation holds the
    image tower alone and the text tower has the task loss; ``side="both"`` holds both towers of the student. The images
    are a draw of their own from the task's data, under the evaluation transforms; with ``images="batch"`` they are the
    minibatch itself, as the student has encoded it, which costs less. Its class-incremental variant has rows and
    columns at weight 5 each (``weight=5``), and draws under the training transforms.

    Differs from LwF, which distils the outputs of the *old* classes: a zero-shot head has none to keep, so the authors
    of ZSCL distil the current ones. In the first task the teacher is the pretrained model.

    :param weight: weight of the distillation, rows and columns added.
    :param temperature: temperature of the distillation, above 0.
    :param side: student's features that are compared: ``"image"``, ``"text"`` (the image tower then gets no
        distillation) or ``"both"``.
    :param images: what is compared: ``"drawn"``, images drawn from the task's data; ``"batch"``, those of the
        minibatch, replayed ones included.
    :param batch_size: drawn images per iteration.
    :param seed: seed of the draws, 0 or more.
    """

    loss = partial(_on_logits, side=side, weight=weight, temperature=temperature)
    drawn = CurrentTask("task", batch_size=batch_size, seed=seed)
    return [DistillationPlugin(model, loss, CurrentBatch("task") if images == "batch" else drawn, PreviousTeacher())]


@recipe(
    "lwf-vr",
    family="CREG",
    summary="distillation of logits on the task's images against random sentences",
    paper=["2207.09248", Paper("2303.06628", "its form for CLIP")],
    training=[FINE_TUNING, CLASS_INCREMENTAL],
    picturebook=WHOLE_TOWERS,
)
def lwf_vr(
    model: VLM,
    *,
    weight: NonNegative = 1.0,
    temperature: Positive = 2.0,
    sentences: Count = 1000,
    words: Members = 10,
    texts_per_step: Natural = 0,
    side: StudentSide = "image",
    images: LwFImages = "drawn",
    batch_size: Count = 64,
    seed: Seed = 0,
) -> Plugins:
    """LwF-VR: as ``lwf``, against random sentences, which stand for the vocabulary (Ding et al., arXiv 2207.09248,
    section 3.3; 1000 sentences of 10 tokens in ZSCL's code, arXiv 2303.06628).

    As there, the teacher's features of the sentences stand on both sides; with ``side="both"`` or ``"text"`` the
    student encodes the sentences in every iteration, with gradients. Differs from that code, which draws new sentences
    for every task: here they are one set for the stream.

    :param weight: weight of the distillation, rows and columns added.
    :param temperature: temperature of the distillation, above 0.
    :param sentences: number of random sentences.
    :param words: random tokens in each sentence.
    :param texts_per_step: sentences drawn anew for every iteration; 0 for all, as published. Where the student encodes
        them, what one iteration costs grows with it.
    :param side: student's features that are compared: ``"image"``, ``"text"`` (the image tower then gets no
        distillation) or ``"both"``.
    :param images: what is compared: ``"drawn"``, images drawn from the task's data; ``"batch"``, those of the
        minibatch, replayed ones included.
    :param batch_size: drawn images per iteration.
    :param seed: seed of the sentences and the draws, 0 or more.
    """

    loss = partial(_on_logits, side=side, weight=weight, temperature=temperature)
    tokens = random_sentences(model, sentences, words, seed)
    per_step = texts_per_step or None
    drawn = CurrentTask(tokens, batch_size=batch_size, texts_per_step=per_step, seed=seed)
    batch = CurrentBatch(tokens, texts_per_step=per_step, seed=seed)
    return [DistillationPlugin(model, loss, batch if images == "batch" else drawn, PreviousTeacher())]


@recipe(
    "zscl",
    family="CREG",
    summary="distillation on reference pairs, L2 to the task's start, running mean of the weights",
    paper=["2303.06628"],
    training=[
        replace(FINE_TUNING, source="the authors' code, mtil/scripts/ZSCL.sh and mtil/src/args.py"),
        replace(
            CLASS_INCREMENTAL,
            source="the authors' code, cil/configs/class/imagenet1000_100-100.yaml and cil/continual_clip/models.py",
            batch_size=128,
            at=("imagenet1k",),
            options={"weight": 5.0, "interval": 10},
            note="rows and columns at weight 5 each; ImageNet in tasks of 100 classes; batches of 64 on TinyImageNet; "
            "7e-6 on ImageNet-100; its weight of the L2 penalty is not stated",
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

    loss = partial(_on_logits, side=side, weight=weight, temperature=temperature)
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
            source="the authors' code, configs/snd_config_1_gpu.yaml",
            benchmark="their streams of image data sets",
            optimizer="AdamW",
            lr=1e-5,
            weight_decay=5e-4,
            schedule="cosine",
            warmup=0,
            label_smoothing=0.0,
            iterations=1000,
            batch_size=32,
            note="10 epochs where that is less, 2 where that is more; 64 reference images; the text tower is frozen",
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

    loss = partial(_dual, previous=previous, initial=initial, sharpness=sharpness, threshold=threshold)
    pairs = ReferenceSet(model, reference, batch_size, seed=seed)
    return [DistillationPlugin(model, loss, pairs, [PreviousTeacher(), InitialTeacher()])]


# Losses are functions of the module and not of a recipe, so that plugins can be copied and pickled.


def _on_logits(c: Comparison, *, side: StudentSide, weight: float, temperature: float) -> torch.Tensor:
    return weight * logit_distillation(c.logits(side), c.teacher.logits, temperature)


def _dual(c: Comparison, *, previous: float, initial: float, sharpness: float, threshold: float) -> torch.Tensor:
    before, first = (teacher.images for teacher in c.teachers)
    eta = torch.sigmoid(sharpness * (torch.linalg.vector_norm(first - before, dim=1) - threshold))
    to_previous = feature_l2(c.student.images, before, squared=True, reduction="none")
    to_initial = feature_l2(c.student.images, first, squared=True, reduction="none")
    return (previous * eta * to_previous + initial * (1 - eta) * to_initial).mean()
