"""Cross-modal regularization (CREG) by the distillation of logits and features."""

from __future__ import annotations

import torch

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.losses.alignment import soft_alignment
from avalanche_vlm.losses.distillation import logit_distillation
from avalanche_vlm.losses.features import feature_l2
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import (
    AnchorPenaltyPlugin,
    Comparison,
    DistillationPlugin,
    NullSpaceProjectionPlugin,
    RunningMeanPlugin,
)
from avalanche_vlm.training.plugins.distillation import StudentSide
from avalanche_vlm.training.recipes.registry import Plugins, recipe
from avalanche_vlm.training.reference import CurrentBatch, ReferenceSet, random_sentences
from avalanche_vlm.training.teachers import InitialTeacher, PreviousTeacher


@recipe("lwf", family="CREG")
def lwf(model: VLM, *, weight: float = 1.0, temperature: float = 2.0) -> Plugins:
    """LwF for CLIP: the current images against the prompts of the current classes (on pairs: the captions of the
    batch), rows and columns, with the previous model as teacher (Li and Hoiem, arXiv 1606.09282, eq. 2-4, as ZSCL's
    code takes it over to CLIP, arXiv 2303.06628, section 4).

    Differs from LwF, which distils the outputs of the *old* classes: a zero-shot head has none to keep, so the authors
    of ZSCL distil the current ones. Both towers of the student are held. In the first task the teacher is the
    pretrained model.

    :param weight: of the distillation, rows and columns added.
    :param temperature: of both distributions.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * logit_distillation(c.logits(), c.teacher.logits, temperature)

    return [DistillationPlugin(model, loss, CurrentBatch("task"), PreviousTeacher())]


@recipe("lwf-vr", family="CREG")
def lwf_vr(
    model: VLM,
    *,
    weight: float = 1.0,
    temperature: float = 2.0,
    sentences: int = 1000,
    words: int = 10,
    texts_per_step: int = 0,
    seed: int = 0,
) -> Plugins:
    """LwF-VR: as ``lwf``, against random sentences, which stand for the vocabulary (Ding et al., arXiv 2207.09248,
    section 3.3; 1000 sentences of 10 tokens in ZSCL's code).

    The student encodes the sentences in every iteration, with gradients.

    :param weight: of the distillation, rows and columns added.
    :param temperature: of both distributions.
    :param sentences: how many.
    :param words: random tokens in each.
    :param texts_per_step: of the sentences, drawn anew for every iteration; 0 for all, as published. What one
        iteration costs grows with it, and the sum over many does not: the draws cover all of them.
    :param seed: of the sentences and the draws.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * logit_distillation(c.logits(), c.teacher.logits, temperature)

    tokens = random_sentences(model, sentences, words, seed)
    reference = CurrentBatch(tokens, texts_per_step=texts_per_step or None, seed=seed)
    return [DistillationPlugin(model, loss, reference, PreviousTeacher())]


@recipe("zscl", family="CREG")
def zscl(
    model: VLM,
    *,
    reference: ReferencePairs,
    batch_size: int = 64,
    weight: float = 1.0,
    temperature: float = 2.0,
    side: StudentSide = "image",
    l2: float = 1.0,
    interval: int = 100,
    seed: int = 0,
) -> Plugins:
    """ZSCL: distillation on a reference set from the initial model, L2 to the start of the task, running-mean weights
    (Zheng et al., arXiv 2303.06628, eq. 4-8).

    Defaults are the authors' code on MTIL, where the paper's text and the code agree; their class-incremental variant
    takes ``weight=5, interval=10``. There the teacher's text features stand on both sides, so that the distillation
    holds the image tower alone, which the authors call design; ``side="both"`` puts the student's texts on its side.
    Differs from the code: images and captions are encoded by the teacher once, and not in every iteration; the running
    mean of a task shorter than one interval is what was learned, and not its start.

    :param reference: pairs.
    :param batch_size: reference images per iteration, each compared with all captions of the set.
    :param weight: of the distillation, rows and columns added.
    :param temperature: of both distributions.
    :param side: which of the student's features are compared: ``"image"``, ``"text"`` (the image tower then gets no
        distillation) or ``"both"``. With its texts the student encodes every caption of the set in every iteration.
    :param l2: weight of the penalty.
    :param interval: iterations between snapshots of the running mean.
    :param seed: of the reference batches.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * logit_distillation(c.logits(side), c.teacher.logits, temperature)

    pairs = ReferenceSet(model, reference, batch_size, texts="all", seed=seed)
    return [
        DistillationPlugin(model, loss, pairs, InitialTeacher()),
        AnchorPenaltyPlugin(l2),
        RunningMeanPlugin(interval),
    ]


@recipe("snd", family="CREG")
def snd(
    model: VLM,
    *,
    reference: ReferencePairs,
    batch_size: int = 64,
    previous: float = 9.0,
    initial: float = 0.5,
    sharpness: float = 6.0,
    threshold: float = 0.2,
    seed: int = 0,
) -> Plugins:
    """Select and Distill: reference images follow two teachers, the previous model where it has moved away from the
    initial one and the initial model elsewhere (Yu et al., arXiv 2403.09296, eq. 3-6).

    ``previous * mean(eta) * mean |f - f_previous|^2 + initial * mean(1 - eta) * mean |f - f_initial|^2`` with
    ``eta = sigmoid(sharpness * (|f_initial - f_previous| - threshold))`` of each image. Weights and squares are the
    authors' code, which weighs the mean score and the mean loss of a batch; the paper scores every sample by itself
    and gives both teachers the same weight. Here every sample's loss has its own score, as in the paper. Image tower
    only.

    :param reference: pairs, of which the images are used.
    :param batch_size: reference images per iteration.
    :param previous: weight of the previous teacher.
    :param initial: weight of the initial teacher.
    :param sharpness: of the selection.
    :param threshold: distance at which both teachers count alike.
    :param seed: of the reference batches.
    """

    def loss(c: Comparison) -> torch.Tensor:
        before, first = (teacher.images for teacher in c.teachers)
        eta = torch.sigmoid(sharpness * (torch.linalg.vector_norm(first - before, dim=1) - threshold))
        to_previous = feature_l2(c.student.images, before, squared=True, reduction="none")
        to_initial = feature_l2(c.student.images, first, squared=True, reduction="none")
        return (previous * eta * to_previous + initial * (1 - eta) * to_initial).mean()

    pairs = ReferenceSet(model, reference, batch_size, seed=seed)
    return [DistillationPlugin(model, loss, pairs, [PreviousTeacher(), InitialTeacher()])]


@recipe("gnsp", family="CREG")
def gnsp(
    model: VLM,
    *,
    reference: ReferencePairs,
    batch_size: int = 64,
    weight: float = 1.0,
    alignment: float = 0.75,
    temperature: float = 2.0,
    label_smoothing: float = 0.2,
    tail_energy: float = 0.15,
    seed: int = 0,
) -> Plugins:
    """GNSP: updates of the image tower's MLPs in the null space of what they read in past tasks, with distillation from
    the initial model and alignment on reference pairs (Peng et al., arXiv 2507.19839).

    ``weight * KD + alignment * soft_alignment`` on a batch of reference pairs and its own captions: KD adds rows and
    columns, the alignment adds its two directions, with the task loss's label smoothing. Weights, temperature,
    smoothing and tail energy are the authors' code on MTIL.

    The first task trains both towers, the others nothing but the projected layers, which are the image tower's MLPs.
    Differs from the code: it draws 1000 other reference pairs for every task, and a caption that is twice in a batch is
    two columns there and one here.
    :class:`~avalanche_vlm.training.plugins.NullSpaceProjectionPlugin` says where the projection differs.

    :param reference: pairs; the published number is 1000.
    :param batch_size: of them per iteration.
    :param weight: of the distillation.
    :param alignment: of the two-way cross-entropy, equal captions matching each other.
    :param temperature: of the distillation.
    :param label_smoothing: of the alignment, in [0, 1).
    :param tail_energy: share of the inputs' energy that updates may touch, in [0, 1].
    :param seed: of the reference batches.
    """

    def loss(c: Comparison) -> torch.Tensor:
        logits = c.logits()
        distilled = logit_distillation(logits, c.teacher.logits, temperature)
        return weight * distilled + alignment * soft_alignment(logits, c.matches, label_smoothing)

    pairs = ReferenceSet(model, reference, batch_size, seed=seed)
    return [
        DistillationPlugin(model, loss, pairs, InitialTeacher()),
        # Last, so that it sees the optimizer's whole step.
        NullSpaceProjectionPlugin(model, tail_energy=tail_energy, freeze_rest=True, dtype=torch.float64),
    ]
