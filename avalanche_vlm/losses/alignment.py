"""Alignment of images with texts that are known to belong together."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def soft_alignment(logits: torch.Tensor, matches: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of images to texts plus that of texts to images, against smoothed targets.

    The target of a row is uniform over its matches and then smoothed over all its columns; columns likewise. This is
    the image-text alignment loss of GIFT (Wu et al., arXiv 2503.04229), whose targets do not come from the teacher,
    so that its errors are not learned. What it is exactly follows the authors' code: equal prompts in a batch match
    each other, both directions share the label smoothing of the task loss (0.2 on MTIL), and they are added. Without
    smoothing it is therefore twice :func:`~avalanche_vlm.losses.contrastive.matched_contrastive`, which takes their
    mean. Where equal texts have equal features, as from an encoder without dropout, it equals the loss in which every
    image matches its own text alone.

    :param logits: ``[B, N]`` scaled similarities, images in rows and texts in columns.
    :param matches: bool ``[B, N]``; every row and column has at least one True.
    :param label_smoothing: share of each target that is spread over all columns, in [0, 1).
    :return: scalar, the sum of the two directions, each a mean over its rows.
    :raises ValueError: if the shapes differ.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> round(soft_alignment(logits, torch.eye(2, dtype=torch.bool)).item(), 4)
    0.2539
    >>> round(soft_alignment(logits, torch.eye(2, dtype=torch.bool), label_smoothing=0.2).item(), 4)
    0.6539
    """
    if logits.shape != matches.shape:
        raise ValueError(
            f"the alignment loss needs matches of the logits' shape {list(logits.shape)}, got {list(matches.shape)}"
        )
    positives = matches.to(logits.dtype)
    rows = positives / positives.sum(1, keepdim=True)
    columns = (positives / positives.sum(0, keepdim=True)).T
    return F.cross_entropy(logits, rows, label_smoothing=label_smoothing) + F.cross_entropy(
        logits.T, columns, label_smoothing=label_smoothing
    )
