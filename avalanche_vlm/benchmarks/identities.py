"""Which rows of image-text data share an image or a caption."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avalanche_vlm.losses.identity import pair_number

Images = Sequence[Any] | torch.Tensor
"""Raw images: uint8 ``[N, 3, H, W]``, or a sequence of anything that the transform takes."""


class Identities:
    """Numbers of images and captions. The data sets of one benchmark share them: replay mixes their samples in a batch,
    and different images or captions with one number would count as each other's positives.

    What is kept of an image or a caption is a digest, so that numbers go on with another file months later
    (:meth:`state_dict`) and neither can be read there.
    """

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
        self._held.append(images)
        return [
            pair_number(image, self._captions.setdefault(_digest(caption), len(self._captions)))
            for image, caption in zip(self._numbers(images), captions, strict=True)
        ]

    def _numbers(self, images: Images) -> Iterator[int]:
        if texts := getattr(images, "path_texts", None):
            return (self._image(Path(text), 1) for text in texts)
        keys = getattr(images, "paths", None) or [_content_key(images, row) for row in range(len(images))]
        times = Counter(keys)
        return (self._image(key, times[key]) for key in keys)

    def state_dict(self) -> dict[str, list[str]]:
        """The digests of captions and images in the order of their numbers, as values that JSON has. Images that are
        objects of this process are known by nothing that another one would find again."""
        images = [name if isinstance(name, str) else "" for name in self._images]
        return {"captions": list(self._captions), "images": images}

    def load_state_dict(self, state: Mapping[str, Sequence[str]]) -> None:
        """Take what :meth:`state_dict` gave.

        :param state: digests in the order of their numbers.
        """
        self._captions = {name: number for number, name in enumerate(state["captions"])}
        self._images = {name or ("gone", number): number for number, name in enumerate(state["images"], start=1)}

    def _image(self, key: Any, times: int) -> int:
        # A picture in memory that is met for the first time, and once, has no number: with one, a memory would need
        # eight bytes for a sample's identity, where four hold the caption's.
        name = None if key is None else _name(key)
        if name is None or (times == 1 and name not in self._images and not isinstance(key, Path)):
            return 0
        return self._images.setdefault(name, len(self._images) + 1)


def _name(key: Any) -> Any:
    """What an image is known by: a digest of its pixels or of its file's place as a text, or the object that it is."""
    if isinstance(key, Path):
        return _digest(str(key.absolute()))
    return key.hex() if isinstance(key, bytes) else key


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _content_key(images: Images, row: int) -> Any:
    """What two places of a sequence in memory have in common if they hold one image; None where that cannot be told."""
    if isinstance(images, torch.Tensor | np.ndarray):
        image = images[row]
        array = image.numpy(force=True) if isinstance(image, torch.Tensor) else image
        return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
    return ("object", id(images[row])) if isinstance(images, list | tuple) else None
