"""Images as a user gives them, and the batches that a model takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from avalanche_vlm.benchmarks.sources.images import read_image, upright_rgb
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.rows import whole

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray"
"""One image: a path, a PIL image of any mode, or an array ``[H, W]`` or ``[H, W, C]``."""

Pictures: TypeAlias = "Picture | Sequence[Picture] | torch.Tensor"
"""One image, several, or a batch ``[B, 3, H, W]`` under the model's own transforms."""


def named_batches(
    images: Pictures, transform: ImageTransform, batch_size: int
) -> Iterator[tuple[list[str | None], torch.Tensor]]:
    """Images in batches that a model takes; no more than one batch is held at a time.

    :param images: what the user has given.
    :param transform: the model's transform without augmentation.
    :param batch_size: images per batch, at least 1.
    :return: pairs of what the images are called, a path or None, and a batch ``[n, 3, H, W]``.
    :raises InputError: for a number that is no batch size, and for the first image that cannot be read.
    """
    size = whole(batch_size, 1, "the batch size")
    if isinstance(images, torch.Tensor):
        _check_batch(images)
        for part in images.split(size):
            yield [None] * len(part), part
        return
    pictures = list_of(images)
    for start in range(0, len(pictures), size):
        part = pictures[start : start + size]
        batch = [prepared(picture, transform, f"image {start + i}") for i, picture in enumerate(part)]
        yield [name_of(picture) for picture in part], torch.stack(batch)


def list_of(images: Any) -> list[Any]:
    """The images one by one.

    :param images: one image or several.
    :raises InputError: for what holds no images.
    """
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images]
    if isinstance(images, np.ndarray):
        if images.ndim > 3:
            raise InputError(
                f"an array is one image [height, width, channels], not {list(images.shape)}: give a list of arrays"
            )
        return [images]
    try:
        return list(images)
    except TypeError as error:
        raise InputError(f"images are paths, PIL images or arrays, not a {type(images).__name__}") from error


def prepared(picture: Any, transform: ImageTransform, called: str) -> torch.Tensor:
    """One image as a model takes it.

    :param picture: a path, a PIL image or an array.
    :param transform: the model's transform without augmentation.
    :param called: what an error calls an image that has no path.
    :return: a tensor ``[3, H, W]``.
    :raises InputError: if it is no image or cannot be read, naming it.
    """
    if isinstance(picture, (str, os.PathLike)):
        path = Path(picture)
        return _transformed(read_image(path), transform, str(path))
    if isinstance(picture, Image.Image):
        try:
            picture = upright_rgb(picture)
        except Exception as error:  # Pillow decodes when it must, and lets errors of many kinds out of damaged files
            raise InputError(f"{called} cannot be decoded: {' '.join(str(error).split())}") from error
    elif not isinstance(picture, np.ndarray):
        hint = ": give tensors as one batch [B, 3, H, W]" if isinstance(picture, torch.Tensor) else ""
        raise InputError(f"{called} is a path, a PIL image or an array, not a {type(picture).__name__}{hint}")
    return _transformed(picture, transform, called)


def name_of(picture: Any) -> str | None:
    """What an image is called.

    :param picture: a path, a PIL image or an array.
    :return: the path; None for an image that has none.
    """
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else None


def _transformed(image: Any, transform: ImageTransform, called: str) -> torch.Tensor:
    try:
        return transform(image)
    except InputError as error:
        raise InputError(f"{called}: {error}") from error
    except (MemoryError, RuntimeError, ValueError, OverflowError) as error:  # a picture of one row that is scaled up
        raise InputError(f"{called} cannot be brought to the model's size: {error}") from error


def _check_batch(images: torch.Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        kind = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        raise InputError(
            f"a tensor is a batch of floating-point images [B, 3, H, W] under the model's transforms, not {kind}: "
            "give other images as paths, PIL images or arrays"
        )
