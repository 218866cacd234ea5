"""Distillation of similarity matrices."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from avalanche_vlm.losses.reduction import Reduction

TrustedRows = Literal["all", "mod-x", "dkr"]


def similarity_distillation(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float = 1.0,
    rows: TrustedRows = "all",
    right: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """``KL(target || student)`` between the softmaxed rows of two similarity matrices, the target being the teacher's
    rows after :func:`rectify`.

    One function for cross-modal matrices (images to texts; transposed, texts to images: :func:`two_way`) and for
    intra-modal ones (:func:`intra_modal`). Entries of -inf are left out of their rows; a row of nothing else counts
    as 0. Unlike :func:`~avalanche_vlm.losses.distillation.logit_distillation` it is 0 where student and target agree,
    and not multiplied by T^2: the temperature is the scale of the similarities, not a softening of it.

    :param student: similarities ``[B, N]`` of the model that trains.
    :param teacher: similarities ``[B, N]`` to imitate; no gradient flows into them.
    :param temperature: positive number that both matrices are divided by.
    :param rows: which of the teacher's rows to trust: see :func:`rectify`.
    :param right: bool ``[B, N]``, the matches, for ``rows`` other than ``"all"``; default the diagonal.
    :param reduction: ``"mean"`` or ``"none"``.
    :return: scalar, the mean over the rows; or ``[B]``. At least 0.
    :raises ValueError: as :func:`rectify`.

    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    >>> round(similarity_distillation(student, teacher).item(), 4)
    0.2194
    >>> round(similarity_distillation(student, teacher, rows="mod-x").item(), 4)
    0.0555
    """
    student = student / temperature
    target = rectify(student, teacher / temperature, rows, right)
    empty = (target == 0).all(1, keepdim=True)
    # Where the target is 0 nothing counts, though the student's logarithm may be -inf there and 0 times it NaN.
    logs = student.masked_fill(empty, 0).log_softmax(1).masked_fill(target == 0, 0)
    losses = (torch.xlogy(target, target) - target * logs).sum(1)
    return losses.mean() if reduction == "mean" else losses


def two_way(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float = 1.0,
    rows: TrustedRows = "all",
    right: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean of :func:`similarity_distillation` on two matrices and on their transposes, as Mod-X and CTP take it
    (:func:`~avalanche_vlm.losses.distillation.logit_distillation` adds its two directions).

    Which rows to trust is decided anew for the transposes: a model may find the text of an image and not the image of
    the text.

    :param student: similarities ``[B, N]``; the other parameters are those of :func:`similarity_distillation`.
    :return: scalar, at least 0.

    >>> student, teacher = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    >>> round(two_way(student, teacher).item(), 4)
    0.1374
    """
    there = similarity_distillation(student, teacher, temperature=temperature, rows=rows, right=right)
    back = similarity_distillation(
        student.T, teacher.T, temperature=temperature, rows=rows, right=None if right is None else right.T
    )
    return (there + back) / 2


@torch.no_grad()
def rectify(
    student: torch.Tensor, teacher: torch.Tensor, rows: TrustedRows = "all", right: torch.Tensor | None = None
) -> torch.Tensor:
    """The rows that the student shall imitate: the teacher's softmaxed rows, mended where the teacher errs.

    - ``"all"``: the teacher's, right or wrong.
    - ``"mod-x"`` (Ni et al., arXiv 2305.07437): where the teacher's largest entry is not a match, the student's own
      row. Such a row teaches nothing: its KL and its gradient are 0.
    - ``"dkr"`` (Cui et al., "Continual Vision-Language Retrieval via Dynamic Knowledge Rectification", AAAI 2024):
      likewise where only the student is right; where neither is, the truth, uniform over the row's matches.

    A row is right if no entry exceeds its largest match, so that a tie is right whatever the order of the columns. A
    row without a match, or with matches only where the teacher is -inf (the masked diagonal of :func:`intra_modal`),
    cannot be judged and stays the teacher's. Mod-X's authors' code compares plain cosines (temperature 1), sums over
    the rows and weighs the mean of the two directions by 20, on matrices of 280 rows: times that number in our mean.
    DKR's code is not public.

    :param student: similarities ``[B, N]``, already divided by the temperature.
    :param teacher: similarities ``[B, N]``, already divided by the temperature.
    :param right: bool ``[B, N]``, the matches; default the diagonal of a square matrix.
    :return: ``[B, N]``, no part of the graph; every row sums to 1, or to 0 if all its entries are -inf.
    :raises ValueError: if the shapes differ, ``rows`` is unknown, or matches are needed and not given.

    >>> rectify(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [2.0, 0.0]]), "dkr")
    tensor([[0.7311, 0.2689],
            [0.5000, 0.5000]])
    >>> rectify(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]]), "dkr")
    tensor([[0.7311, 0.2689],
            [0.0000, 1.0000]])
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"similarity distillation needs matrices of one shape, got {list(student.shape)} and {list(teacher.shape)}"
        )
    target = _softmax(teacher)
    if rows == "all":
        return target
    if rows not in ("mod-x", "dkr"):
        raise ValueError(f'similarity distillation knows the rows "all", "mod-x" and "dkr", not {rows!r}')
    right = _matches(teacher, right) & ~teacher.isneginf()
    trusted = _is_right(teacher, right) | ~right.any(1)
    own = _softmax(student)
    if rows == "dkr":
        truth = right.to(own) / right.sum(1, keepdim=True).clamp_min(1)
        own = torch.where(_is_right(student, right)[:, None], own, truth)
    return torch.where(trusted[:, None], target, own)


def intra_modal(features: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The similarities of a batch's features to each other, those of each to itself left out.

    :param features: ``[B, D]``; normalised here.
    :param scale: times the cosines; the inverse of a temperature.
    :return: ``[B, B]``, in [-scale, scale] and -inf on the diagonal.

    >>> intra_modal(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), scale=10.0)
    tensor([[-inf, 6.],
            [6., -inf]])
    """
    features = F.normalize(features, dim=1)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    return (scale * features @ features.T).masked_fill(itself, -torch.inf)


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    empty = logits.isneginf().all(1, keepdim=True)
    return logits.masked_fill(empty, 0).softmax(1).masked_fill(empty, 0)


def _is_right(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(~right, -torch.inf).amax(1) >= logits.amax(1)


def _matches(logits: torch.Tensor, right: torch.Tensor | None) -> torch.Tensor:
    if right is None:
        if logits.shape[0] != logits.shape[1]:
            raise ValueError(f"say what matches in a matrix that is not square: {list(logits.shape)}")
        return torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if right.shape != logits.shape:
        raise ValueError(
            f"similarity distillation needs matches of the matrices' shape {list(logits.shape)}, "
            f"got {list(right.shape)}"
        )
    return right
