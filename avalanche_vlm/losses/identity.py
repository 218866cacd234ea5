"""Who is who among pairs: one number says which image and which caption a pair is of.

Criteria and plugins get a pair's identity ``y`` and nothing else, and a pair has two: the same image may come with
several captions, the same caption with several images. So ``y`` is the caption's number, and where the image is known
to be one of several rows its number too, in the upper bits. A plain number is that of a caption, of an image that is
known from no other row.
"""

from __future__ import annotations

import torch

from avalanche_vlm._host import on_host, to_device

BITS = 32
"""The caption's number has so many bits; the image's number is above them."""


def pair_number(image: int, caption: int) -> int:
    """The identity of a pair.

    :param image: number of the image from 1 on, or 0 for one that no other row has.
    :param caption: number of the caption, from 0 on.

    >>> pair_number(0, 5), captions_of(torch.tensor([pair_number(3, 5)])).item()
    (5, 5)
    """
    return image << BITS | caption


def captions_of(y: torch.Tensor) -> torch.Tensor:
    """The captions' numbers.

    :param y: identities of pairs ``[B]``.
    """
    return y & ((1 << BITS) - 1)


def images_of_rows(y: torch.Tensor) -> torch.Tensor:
    """A number for every row, equal where two rows have one image: of an image that is not known from elsewhere, one
    below 0 that no other row has.

    :param y: identities of pairs ``[B]``.

    >>> images_of_rows(torch.tensor([5, 5, pair_number(2, 5), pair_number(2, 6)])).tolist()
    [-1, -2, 2, 2]
    """
    image = y >> BITS
    return torch.where(image > 0, image, -1 - torch.arange(len(y), device=y.device))


def with_captions(y: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The identities of pairs that have the images of some and the captions of others.

    :param y: identities of pairs whose images are taken ``[B]``.
    :param others: identities of pairs whose captions are taken ``[B]``.
    """
    return (y >> BITS << BITS) | captions_of(others)


def alike(y: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Whether two pairs have one image or one caption, so that neither is a negative of the other: bool ``[B, N]``.

    :param y: identities of pairs ``[B]``.
    :param others: identities of other pairs ``[N]``.

    >>> alike(torch.tensor([pair_number(1, 5)]), torch.tensor([pair_number(1, 6), pair_number(2, 5), 5, 6])).tolist()
    [[True, True, True, False]]
    """
    image = y >> BITS
    same_image = (image[:, None] == (others >> BITS)[None, :]) & (image > 0)[:, None]
    return same_image | (captions_of(y)[:, None] == captions_of(others)[None, :])


def true_captions(y: torch.Tensor) -> torch.Tensor:
    """Which captions are true of which images, as far as the pairs themselves say so: bool ``[B, B]``, images in rows
    and captions in columns.

    A caption is true of an image if some row pairs the two. What follows from two rows by way of a third does not
    count: with the pairs (A, 1), (A, 2) and (B, 2), caption 1 is not true of image B, which it may well not show.

    :param y: identities of pairs ``[B]``.

    >>> y = torch.tensor([pair_number(1, 1), pair_number(1, 2), pair_number(2, 2)])
    >>> true_captions(y).int().tolist()
    [[1, 1, 1], [1, 1, 1], [0, 1, 1]]
    >>> true_captions(torch.tensor([7, 8, 7])).int().tolist()
    [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    """
    known = on_host(y)
    (images, image), (captions, caption) = (
        torch.unique(of, return_inverse=True) for of in (images_of_rows(known), captions_of(known))
    )
    paired = torch.zeros(len(images), len(captions), dtype=torch.bool, device=known.device)
    paired[image, caption] = True
    return to_device(paired[image][:, caption], y.device)
