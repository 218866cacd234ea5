"""Which rows of image-text data share an image or a caption."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avalanche_vlm.losses.identity import pair_number

Images = Sequence[Any] | torch.Tensor
"""Raw images: uint8 ``[N, 3, H, W]``, or a sequence of anything that the transform takes."""


class Identities:
    """Numbers of images and captions. The data sets of one benchmark share them: replay mixes their samples in a batch,
    and different images or captions with one number would count as each other's positives."""

    def __init__(self) -> None:
        self._captions: dict[str, int] = {}
        self._images: dict[Any, int] = {}
        self._held: list[Images] = []
        """So that no other object gets the address of one that was numbered."""

    def number(self, images: Images, captions: Sequence[str]) -> list[int]:
        """The identities of pairs (:mod:`~avalanche_vlm.losses.identity`): equal captions share a number, and so do
        rows of one image: of one file, in whichever data set, or of one picture in memory that some data set had in
        several rows. A picture in memory that every data set has once is another image in each of them.

        :param images: images of the N pairs; a file may be in several data sets, and so may a picture in memory that
            the first of them has in several rows.
        :param captions: captions of the N images.
        """
        keys = getattr(images, "paths", None) or [_content_key(images, row) for row in range(len(images))]
        times = Counter(keys)
        self._held.append(images)
        return [
            pair_number(self._image(key, times[key]), self._captions.setdefault(caption, len(self._captions)))
            for key, caption in zip(keys, captions, strict=True)
        ]

    def _image(self, key: Any, times: int) -> int:
        # A picture in memory that is met for the first time, and once, has no number: with one, a memory would need
        # eight bytes for a sample's identity, where four hold the caption's.
        if key is None or (times == 1 and key not in self._images and not isinstance(key, Path)):
            return 0
        return self._images.setdefault(key, len(self._images) + 1)


def _content_key(images: Images, row: int) -> Any:
    """What two places of a sequence in memory have in common if they hold one image; None where that cannot be told."""
    if isinstance(images, torch.Tensor | np.ndarray):
        image = images[row]
        array = image.numpy(force=True) if isinstance(image, torch.Tensor) else image
        return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
    return ("object", id(images[row])) if isinstance(images, list | tuple) else None
