"""How far apart the modalities lie, as pure functions on features."""

from __future__ import annotations

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.unit_features import figures_on_host, refuse_broken_rows, unit_sides


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
    return figures_on_host({"gap": _gap(images, texts)}, broken, len(images), len(texts))["gap"]


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
    images, texts, broken = unit_sides(image_features, text_features)
    if len(images) != len(texts):
        refuse_broken_rows(broken.tolist(), len(images), len(texts))  # these come first
        raise InputError(f"{len(images)} image features and {len(texts)} text features do not pair up")
    return figures_on_host({"cosine": _cosine(images, texts)}, broken, len(images), len(texts))["cosine"]


def gap_and_cosine(images: torch.Tensor, texts: torch.Tensor) -> dict[str, torch.Tensor]:
    """:func:`modality_gap` and :func:`paired_cosine` of pairs, for which no device is waited for.

    :param images: features of the images ``[N, D]``, of unit length.
    :param texts: features of their texts ``[N, D]``, of unit length.
    :return: ``modality gap`` and ``paired cosine``, numbers on the features' device.
    """
    return {"modality gap": _gap(images, texts), "paired cosine": _cosine(images, texts)}


def _gap(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    return (images.mean(0) - texts.mean(0)).norm()


def _cosine(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    return (images * texts).sum(1).mean()
