"""Contrastive losses on in-batch similarity logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm.losses.identity import true_captions
from avalanche_vlm.losses.reduction import Reduction


def multi_positive_contrastive(logits: torch.Tensor, y: torch.Tensor, reduction: Reduction = "mean") -> torch.Tensor:
    """Symmetric InfoNCE with all that the batch knows to be true for positives: equal captions, and the captions of one
    image (:func:`~avalanche_vlm.losses.identity.true_captions`).

    The target of a row is uniform over its positives, as in supervised contrastive learning (Khosla et al., arXiv
    2004.11362, L_out); with all ``y`` distinct it is CLIP's loss (Radford et al., arXiv 2103.00020).

    :param logits: ``[B, B]`` scaled similarities, images in rows and texts in columns.
    :param y: ``[B]`` identity of each pair: of its caption, and of its image where that has several.
    :param reduction: ``"mean"`` or ``"none"``.
    :return: scalar, at least the entropy of the targets; or ``[B]``, one loss per pair.
    :raises ValueError: if ``logits`` is not square over ``y``.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> round(multi_positive_contrastive(logits, torch.tensor([0, 1])).item(), 4)
    0.1269
    >>> round(multi_positive_contrastive(torch.zeros(2, 2), torch.tensor([5, 5])).item(), 4)
    0.6931
    """
    if logits.shape != (len(y), len(y)):
        raise ValueError(
            f"the contrastive loss needs in-batch logits [{len(y)}, {len(y)}] for {len(y)} captions, "
            f"got {list(logits.shape)}"
        )
    return matched_contrastive(logits, true_captions(y), reduction)


def matched_contrastive(logits: torch.Tensor, matches: torch.Tensor, reduction: Reduction = "mean") -> torch.Tensor:
    """Symmetric InfoNCE with the positives given: a caption may be true of several images, and the reverse.

    :param logits: ``[B, N]`` scaled similarities, images in rows and texts in columns.
    :param matches: bool ``[B, N]``; every row and column has at least one True.
    :param reduction: ``"mean"``, or ``"none"`` where B equals N.
    :return: scalar, the mean of the two directions; or ``[B]``.

    >>> round(matched_contrastive(torch.zeros(2, 2), torch.tensor([[True, True], [False, True]])).item(), 4)
    0.6931
    """
    positives = matches.to(logits.dtype)
    rows = F.cross_entropy(logits, positives / positives.sum(1, keepdim=True), reduction=reduction)
    columns = F.cross_entropy(logits.T, (positives / positives.sum(0, keepdim=True)).T, reduction=reduction)
    return (rows + columns) / 2


def sigmoid_contrastive(logits: torch.Tensor, y: torch.Tensor, reduction: Reduction = "mean") -> torch.Tensor:
    """SigLIP's pairwise sigmoid loss (Zhai et al., arXiv 2303.15343, eq. 1), with the positives of
    :func:`multi_positive_contrastive`.

    :param logits: ``[B, B]`` scaled similarities with the logit bias added.
    :param y: ``[B]`` identity of each pair: of its caption, and of its image where that has several.
    :param reduction: ``"mean"`` or ``"none"``.
    :return: scalar, the sum over pairs divided by B; or ``[B]``, one sum per image.

    >>> round(sigmoid_contrastive(torch.zeros(2, 2), torch.tensor([0, 1])).item(), 4)
    1.3863
    """
    if logits.shape != (len(y), len(y)):
        raise ValueError(
            f"the sigmoid loss needs in-batch logits [{len(y)}, {len(y)}] for {len(y)} captions, "
            f"got {list(logits.shape)}"
        )
    sign = 2 * true_captions(y).to(logits.dtype) - 1
    per_image = -F.logsigmoid(sign * logits).sum(1)
    return per_image.mean() if reduction == "mean" else per_image
