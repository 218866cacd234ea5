"""Answers to pairs: for every image the nearest caption."""

from __future__ import annotations

import torch

from avalanche_vlm.losses.identity import captions_of, images_of_rows


def nearest_captions(images: torch.Tensor, texts: torch.Tensor, chunk: int = 1024) -> torch.Tensor:
    """The row of the caption with the highest similarity to each image, the first one where several have it.

    :param images: unit-length features ``[N, D]``.
    :param texts: unit-length features of the captions ``[M, D]``.
    :param chunk: number of images that are compared at a time.
    :return: a row of the captions for each image, int64 ``[N]``.

    >>> nearest_captions(torch.eye(2), torch.tensor([[0.6, 0.8], [1.0, 0.0]])).tolist()
    [1, 0]
    """
    images, texts = images.float(), texts.float()
    return torch.cat([(images[start : start + chunk] @ texts.T).argmax(1) for start in range(0, len(images), chunk)])


def right_captions(y: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Whether the chosen caption is one of its image's.

    :param y: identities of the pairs ``[N]`` (:mod:`~avalanche_vlm.losses.identity`).
    :param chosen: rows of captions ``[N]``.
    :return: an answer for each row, bool ``[N]``.

    >>> y = torch.tensor([1 << 32 | 0, 1 << 32 | 1, 2 << 32 | 2])  # two captions of one image, then another image
    >>> right_captions(y, torch.tensor([1, 2, 2])).tolist()
    [True, False, True]
    """
    images, captions = images_of_rows(y).tolist(), captions_of(y).tolist()
    known = set(zip(images, captions, strict=True))
    return torch.tensor([(image, captions[row]) in known for image, row in zip(images, chosen.tolist(), strict=True)])
