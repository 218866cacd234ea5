"""Image files, decoded when they are read: any size, any mode, with plain words for what cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from avalanche_vlm._content import file_digest
from avalanche_vlm.errors import InputError

_SUFFIXES = """
    .jpg .jpeg .jpe .jfif .png .apng .bmp .dib .gif .tif .tiff .webp .avif .avifs .heic .heif .ppm .pgm .pbm .pnm .jp2
    .j2k .mpo .tga
"""
EXTENSIONS = frozenset(_SUFFIXES.split())
"""Ends of the names of image files. Whether Pillow reads one is seen when it is decoded: .heic takes a plug-in."""


class ImageFiles(Sequence[Image.Image]):
    """A sequence of RGB PIL images that holds nothing but the paths.

    :param paths: paths of image files.
    """

    def __init__(self, paths: Sequence[Path | str]) -> None:
        self.paths = [Path(p) for p in paths]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...

    def __getitem__(self, index: int | slice) -> Image.Image | ImageFiles:
        if isinstance(index, slice):
            return ImageFiles(self.paths[index])
        return read_image(self.paths[index])

    def content_of(self, index: int) -> bytes:
        """A digest of the file's bytes, which stands for the image where contents are compared.

        :param index: place of the image.
        :raises InputError: if the file cannot be read.
        """
        return file_digest(self.paths[index]).encode()


def read_image(path: Path) -> Image.Image:
    """Decode a file to RGB, upright (EXIF orientation applied), transparency laid on white.

    :raises InputError: if the file is missing, truncated, no image, or too large to be decoded safely.
    """
    try:
        with warnings.catch_warnings():
            # Pillow only warns about images that would take gigabytes of memory; twice as large it raises.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _to_rgb(_upright(image))
    except FileNotFoundError as error:
        raise InputError(f"there is no image file at {path}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image in a format that Pillow reads") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} has more pixels than can be decoded safely") from error
    except Exception as error:
        # Pillow's decoders let struct.error, TypeError, zlib.error and others out of damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be decoded: {reason}") from error


def check_images(paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> list[tuple[int, str]]:
    """Decode every file, so that a corrupt one is found before training and not in the middle of it.

    :param paths: paths of image files.
    :param progress: called as ``(done, total)``.
    :return: index and sentence of each file that cannot be read.
    """
    problems = []
    for index, path in enumerate(paths):
        try:
            read_image(path)
        except InputError as error:
            problems.append((index, str(error)))
        if progress is not None:
            progress(index + 1, len(paths))
    return problems


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata say nothing about the pixels, which did decode
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips wide integers to 255 where they should be scaled.
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if image.mode.startswith("I") and values.max() <= 65535 else max(values.max(), 1e-12)
        image = Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")
