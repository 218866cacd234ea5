"""How far apart the modalities lie, as pure functions on features."""

from __future__ import annotations

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.unit_features import refuse_broken_rows, unit_sides


@torch.no_grad()
def modality_gap(image_features: torch.Tensor, text_features: torch.Tensor) -> float:
    """Distance between the mean image feature and the mean text feature (Liang et al., arXiv 2203.02053).

    The images and texts need not be pairs, nor be equally many.

    :param image_features: ``[N, D]``, features of the images; normalised here.
    :param text_features: ``[M, D]``, features of the texts; normalised here.
    :return: distance in [0, 2]; 0 if both modalities have the same centre.
    :raises InputError: if features are empty, NaN, infinite or of different widths.

    >>> modality_gap(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
    1.0
    """
    images, texts, broken = unit_sides(image_features, text_features)
    return _on_host(broken, [(images.mean(0) - texts.mean(0)).norm()], len(images), len(texts))[0]


@torch.no_grad()
def paired_cosine(image_features: torch.Tensor, text_features: torch.Tensor) -> float:
    """Mean cosine similarity between an image and its own text: falls when the modalities drift apart.

    :param image_features: ``[N, D]``, features of the images; normalised here.
    :param text_features: ``[N, D]``, features of the texts, row n that of image n's text.
    :return: mean cosine in [-1, 1].
    :raises InputError: if features are empty, NaN, infinite or of different shapes.

    >>> paired_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    0.5
    """
    return gap_and_cosine(image_features, text_features)[1]


@torch.no_grad()
def gap_and_cosine(image_features: torch.Tensor, text_features: torch.Tensor) -> tuple[float, float]:
    """:func:`modality_gap` and :func:`paired_cosine`, for both of which a device is waited for once.

    :param image_features: ``[N, D]``, features of the images; normalised here.
    :param text_features: ``[N, D]``, features of the texts, row n that of image n's text.
    :raises InputError: if features are empty, NaN, infinite or of different shapes.
    """
    images, texts, broken = unit_sides(image_features, text_features)
    if len(images) != len(texts):
        refuse_broken_rows(broken.tolist(), len(images), len(texts))  # these come first
        raise InputError(f"{len(images)} image features and {len(texts)} text features do not pair up")
    figures = [(images.mean(0) - texts.mean(0)).norm(), (images * texts).sum(1).mean()]
    gap, cosine = _on_host(broken, figures, len(images), len(texts))
    return gap, cosine


def _on_host(broken: torch.Tensor, figures: list[torch.Tensor], images: int, texts: int) -> list[float]:
    found = torch.cat([broken, torch.stack(figures)]).tolist()
    refuse_broken_rows(found[: len(broken)], images, texts)
    return found[len(broken) :]
