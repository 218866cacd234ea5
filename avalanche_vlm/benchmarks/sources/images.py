"""Image files, decoded when they are read: any size, any mode, with plain words for what cannot be."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from avalanche_vlm import _given
from avalanche_vlm.benchmarks.pixels import from_wide, to_rgb
from avalanche_vlm.benchmarks.sources.contents import as_digits, contents_of
from avalanche_vlm.benchmarks.sources.inside import container_of, opened_inside, size_at
from avalanche_vlm.benchmarks.sources.manifest import look_at
from avalanche_vlm.benchmarks.sources.path_texts import PathTexts
from avalanche_vlm.errors import InputError

_SUFFIXES = """
    .jpg .jpeg .jpe .jfif .png .apng .bmp .dib .gif .tif .tiff .webp .avif .avifs .heic .heif .ppm .pgm .pbm .pnm .jp2
    .j2k .mpo .tga
"""
EXTENSIONS = frozenset(_SUFFIXES.split())
"""Ends of the names of image files. Whether Pillow reads one is seen when it is decoded: .heic takes a plug-in."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read of what somebody sends."""

_ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held."""
_UPPER_BITS_IN_USE = 64
"""From here on the upper 8 of 16 bits show the picture: with less, at most 14 bits are used."""

_PLAIN = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"))
"""Modes of which every value has 8 bits."""
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b"\x3b"}
"""Last bytes of files by format."""
_TAIL = 8


class ImageFiles(Sequence[Image.Image]):
    """A sequence of RGB PIL images that holds nothing but the paths.

    :param paths: paths of image files, or paths that lead into tars and Parquet tables: ``shard.tar/0001.jpg``.
    :param draft: least side in pixels that JPEG files are decoded to, as :func:`read_image` has it; None for their own.
    """

    def __init__(self, paths: Sequence[Path | str], draft: int | None = None) -> None:
        self.path_texts: Sequence[str] = paths if isinstance(paths, PathTexts) else [os.fspath(path) for path in paths]
        """The paths as texts: of millions, these take a third of what paths do."""
        self.draft = draft

    @property
    def paths(self) -> list[Path]:
        """The paths of the images."""
        return [Path(path) for path in self.path_texts]

    def __len__(self) -> int:
        return len(self.path_texts)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...

    def __getitem__(self, index: int | slice) -> Image.Image | ImageFiles:
        if isinstance(index, slice):
            return ImageFiles(self.path_texts[index], self.draft)
        return read_image(Path(self.path_texts[index]), self.draft)

    def at(self, rows: Sequence[int] | np.ndarray) -> ImageFiles:
        """Some of the images, in the order given.

        :param rows: places of the images.
        """
        texts = self.path_texts
        return ImageFiles(texts.at(rows) if isinstance(texts, PathTexts) else [texts[row] for row in rows], self.draft)

    def contents_of(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """Digests of files' bytes, which stand for the images where contents are compared.

        :param rows: places of the images.
        :raises InputError: if a file cannot be read.
        """
        paths = self.at(np.asarray(rows, np.int64)).path_texts
        digits = as_digits(contents_of(paths, look_at(paths))).encode()
        return [digits[at : at + 16] for at in range(0, len(digits), 16)]


def read_image(path: Path, draft: int | None = None) -> Image.Image:
    """Decode a file to RGB, upright (EXIF orientation applied), transparency laid on white. Of frames the first counts.

    Values beyond 8 bits are scaled by the depth in use (:func:`~avalanche_vlm.benchmarks.pixels.white_of`).

    :param path: path of an image file.
    :param draft: JPEG files are decoded at a half, a quarter or an eighth of their size, the smallest of which both
        sides have so many pixels or more; None decodes every pixel.
    :raises InputError: if the file is missing, truncated, no image, or too large to be decoded safely.
    """
    with _decoding(str(path)), _opened(path) as file, Image.open(file) as image:
        if draft is not None:
            image.draft(None, (draft, draft))  # of other formats Pillow decodes every pixel all the same
        return upright_rgb(_decoded(image, str(path), lambda: None if container_of(path) else _sixteen_bits(path)))


def image_of(content: bytes, called: str, most_pixels: int) -> Image.Image:
    """Decode what somebody has sent, as :func:`read_image` decodes a file that holds the same bytes. It is in memory
    from the beginning to the end, and of a format of pixels: Pillow reads others by other programs.

    :param content: the bytes of an image file.
    :param called: what an error calls it.
    :param most_pixels: pixels that it may have, which its header says before any is decoded.
    :raises InputError: if it is truncated, no image in one of :data:`FORMATS`, or larger than that.
    """
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    with _decoding(called), Image.open(BytesIO(content), formats=formats) as image:
        if image.width * image.height > most_pixels:
            there = f"{image.width} x {image.height}"
            raise InputError(f"{called} has {there} pixels, and at most {most_pixels:,} are read")
        return upright_rgb(_decoded(image, called, lambda: _sixteen_bits(content)))


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image as :func:`read_image` has it of a file: RGB, upright, transparency laid on white.

    :param image: an image of any mode.
    :raises InputError: for values of which nothing says what is black.
    """
    return to_rgb(_upright(image))


def check_ends(path: Path) -> None:
    """See whether a file begins and ends as its format does. What cannot be told so is decoded: no file is refused that
    :func:`read_image` reads. Damage between header and end is not seen.

    :param path: path of an image file.
    :raises InputError: as :func:`read_image` does.
    """
    refuse_no_file(path)
    if not _begins_and_ends(path):
        read_image(path)


def refuse_no_file(path: Path) -> None:
    """Refuse what is no file with a content of its own; to open a pipe or a device may take forever.

    :param path: path of an image file, or of an image inside another file.
    :raises InputError: if there is none, or it is a folder, a pipe, a socket or a device.
    """
    if container_of(path) is not None:
        size_at(path)  # which says that there is none
        return
    try:
        _given.refuse_irregular(path)
    except OSError as error:
        raise InputError(_out_of_reach(path, error)) from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """An image file, or one inside another file (:mod:`~avalanche_vlm.benchmarks.sources.inside`)."""
    if (inside := opened_inside(path)) is not None:
        yield inside
        return
    with ExitStack() as opened:
        try:
            file = opened.enter_context(_given.open_regular(path))
        except OSError as error:
            raise InputError(_out_of_reach(path, error)) from error
        yield file


def _out_of_reach(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no image file at {path}"
    return f"{path} cannot be read: {error.strerror or error}"


def _begins_and_ends(path: Path) -> bool:
    """Whether a file has a header that can be read, of pixels that always can, and the end that belongs to it."""
    try:
        with warnings.catch_warnings(), _opened(path) as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                plain = image.mode in _PLAIN and not any(map(_is_wide, getattr(image, "tile", ())))
                of = image.format
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            tail = file.read(_TAIL)
            file.seek(0)
            head = file.read(8)
    except Exception:  # of any kind, as when files are decoded, which says what it is
        return False
    if of == "WEBP":
        return plain and int.from_bytes(head[4:], "little") + 8 <= size
    return plain and of in _ENDS and tail.endswith(_ENDS[of])


@contextmanager
def _decoding(called: str) -> Iterator[None]:
    """Whatever goes wrong while an image is decoded, in one sentence."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns about images that would take gigabytes of memory; twice as large it raises.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except InputError as error:
        raise InputError(str(error) if called in str(error) else f"{called}: {error}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{called} is not an image in a format that Pillow reads") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{called} has more pixels than can be decoded safely") from error
    except Exception as error:
        # Pillow's decoders let struct.error, TypeError, zlib.error and others out of damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{called} cannot be decoded: {reason}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image  # which copies whatever is upright
    except Exception:  # damaged metadata say nothing about the pixels, which did decode
        return image


def _decoded(image: Image.Image, called: str, all_bits: Callable[[], np.ndarray | None]) -> Image.Image:
    """The picture in the file. Of colours with 16 bits per channel Pillow keeps the upper 8, which may be empty."""
    tiles = getattr(image, "tile", ())
    wide = image.mode in ("RGB", "RGBA") and any(map(_is_wide, tiles))
    plain = image.format == "PNG" and image.mode == "RGB" and image.getexif().get(_ORIENTATION, 1) == 1
    image.load()
    if not wide or np.asarray(image.convert("RGB")).max() >= _UPPER_BITS_IN_USE:
        return image
    values = all_bits() if plain else None
    if values is None:
        raise InputError(
            f"{called} has 16 bits per colour, of which the lower ones alone are used, and Pillow reads the upper 8: "
            "save it with 8 bits per colour"
        )
    return from_wide(values)


def _is_wide(tile: Any) -> bool:
    """Whether a part of a file has 16 bits a value: Pillow's mode ends so, and of PPM the largest value says it."""
    return ";16" in str(tile[3]) or (isinstance(tile[3], tuple) and tile[3][-1:] == (65535,))


def _sixteen_bits(of: Path | bytes) -> np.ndarray | None:
    """All bits of a PNG file, or of its bytes, ``[H, W, 3]``; None where torchvision reads 8 of them."""
    import torch

    try:
        from torchvision.io import decode_png, read_file
    except ImportError:  # later versions leave it to another package
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The image decoding", category=DeprecationWarning)
        held = torch.frombuffer(bytearray(of), dtype=torch.uint8) if isinstance(of, bytes) else read_file(str(of))
        values = decode_png(held)
    return values.permute(1, 2, 0).numpy() if values.dtype == torch.uint16 else None
