"""Distillation and consolidation of features."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from avalanche_vlm.losses.reduction import Reduction

Contrast = Literal["samples", "pairs"]


def feature_l2(
    student: torch.Tensor, teacher: torch.Tensor, squared: bool = False, reduction: Reduction = "mean"
) -> torch.Tensor:
    """Euclidean distance of the student's features from the teacher's: ``||f_s - f_t||`` or its square.

    Select and Distill (Yu et al., arXiv 2403.09296) keeps the image tower near two teachers by such distances between
    unit-length features. Its authors' code takes the square under an option named ``square=False``: pass
    ``squared=True`` to do as it does. The distance pulls every sample equally hard, the square those that moved most.

    :param student: ``[B, D]``, compared as given: normalise first if lengths shall not count.
    :param teacher: ``[B, D]``; no gradient flows into it.
    :param squared: square the distances.
    :param reduction: ``"mean"`` or ``"none"``.
    :return: scalar, the mean over the samples; or ``[B]``. At least 0. The gradient is 0 where the two are equal.
    :raises ValueError: if the shapes differ.

    >>> feature_l2(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2)).item()
    3.0
    >>> feature_l2(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2), squared=True).item()
    13.0
    """
    _require_same_shape("feature distillation", student, teacher)
    difference = student - teacher.detach()
    losses = difference.square().sum(1) if squared else torch.linalg.vector_norm(difference, dim=1)
    return losses.mean() if reduction == "mean" else losses


def contrastive_knowledge_consolidation(
    student_images: torch.Tensor,
    student_texts: torch.Tensor,
    teacher_images: torch.Tensor,
    teacher_texts: torch.Tensor,
    temperature: float = 0.07,
    contrast: Contrast = "samples",
) -> torch.Tensor:
    """C-CLIP's CKC (Liu et al., ICLR 2025, eq. 5): the student must recognise what the teacher's features belong to.

    The projected features of the N new images and texts are one list, the teacher's another; symmetric InfoNCE with the
    entries of equal index as positives. Unlike a distance, it asks only that the student's features tell the samples
    apart in the teacher's space, and so it has a gradient even where the student equals the teacher. The official code
    (SmallPigPeppa/C-CLIP) was not available to us; we read the paper's 2N as samples, images and texts together. A
    reproduction (KoyoImai/C-CLIP) joins an image and its text into one vector of width 2D, of which there are N. The
    projector is the caller's. Where equal texts have equal features on both sides it makes no difference that they are
    each other's negatives.

    :param student_images: ``[N, D]``, after the projector; normalised here, like the others.
    :param student_texts: ``[N, D]``, after the projector.
    :param teacher_images: ``[N, D]``; no gradient flows into it.
    :param teacher_texts: ``[N, D]``; no gradient flows into it.
    :param temperature: positive; divides the cosines.
    :param contrast: what is told apart: ``"samples"``, a list of 2N features; ``"pairs"``, a list of N, an image's and
        its text's features joined as they are given and then normalised.
    :return: scalar, the mean of the two directions; at least 0.
    :raises ValueError: if the shapes differ.

    >>> images, texts = torch.eye(4)[:2], torch.eye(4)[2:]
    >>> round(contrastive_knowledge_consolidation(images, texts, images, texts, temperature=1.0).item(), 4)
    0.7437
    >>> round(contrastive_knowledge_consolidation(images, texts, images, texts, 1.0, "pairs").item(), 4)
    0.3133
    """
    _require_same_shape("contrastive consolidation", student_images, student_texts, teacher_images, teacher_texts)
    axis = 0 if contrast == "samples" else 1
    student = F.normalize(torch.cat([student_images, student_texts], axis), dim=1)
    teacher = F.normalize(torch.cat([teacher_images, teacher_texts], axis).detach(), dim=1)
    logits = student @ teacher.T / temperature
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _require_same_shape(what: str, *features: torch.Tensor) -> None:
    shapes = [list(x.shape) for x in features]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"{what} needs features of one shape, got {', '.join(map(str, shapes))}")
