"""Image files of every kind with any bytes: a picture, or one sentence."""

from __future__ import annotations

import io
import struct
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from example import Example, WrongAccept
from mutators import changed
from PIL import Image

from avalanche_vlm.errors import InputError

SHARE, QUICK = 160, 50

_WORDS = [
    b"IHDR",
    b"IEND\xaeB`\x82",
    b"IDAT",
    b"PLTE",
    b"tRNS",
    b"acTL",
    b"fcTL",
    b"eXIf",
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xe1",
]
_WORDS += [
    b"Exif\0\0",
    b"II*\0",
    b"MM\0*",
    b"GIF89a",
    b";",
    b"RIFF",
    b"WEBP",
    b"VP8X",
    b"ANIM",
    b"BM",
    b"\xff" * 8,
    b"\0" * 8,
    b"%PDF-1.4",
]


@cache
def seeds() -> dict[str, bytes]:
    """Small pictures of all formats and modes that Pillow writes here."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (6, 9, 3), dtype=np.uint8))
    rgba = Image.fromarray(rng.integers(0, 255, (6, 9, 4), dtype=np.uint8))
    wide = Image.fromarray(rng.integers(0, 65535, (6, 9), dtype=np.uint16))
    real = Image.fromarray(rng.random((6, 9), dtype=np.float32))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0132] = 6, "a picture", "2026:01:01 00:00:00"
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)], "duration": 20}
    wanted = {
        "rgb.png": (rgb, {}),
        "rgba.png": (rgba, {"exif": exif}),
        "grey.png": (rgb.convert("L"), {}),
        "bits.png": (rgb.convert("1"), {}),
        "wide.png": (wide, {}),
        "palette.png": (rgb.convert("P"), {"transparency": 3}),
        "moving.png": (rgb, frames),
        "rgb.jpg": (rgb, {"exif": exif}),
        "grey.jpg": (rgb.convert("L"), {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "palette.gif": (rgb.convert("P"), {"transparency": 0}),
        "moving.gif": (rgb, frames),
        "lossy.webp": (rgb, {"exif": exif}),
        "lossless.webp": (rgba, {"lossless": True}),
        "moving.webp": (rgb, frames),
        "rgb.tif": (rgb, {"exif": exif}),
        "packed.tif": (rgba, {"compression": "tiff_lzw"}),
        "wide.tif": (wide, {}),
        "real.tif": (real, {}),
        "pages.tif": (rgb, {"save_all": True, "append_images": [rgb]}),
        "rgb.bmp": (rgb, {}),
        "palette.bmp": (rgb.convert("P"), {}),
        "rgb.ppm": (rgb, {}),
        "wide.pgm": (wide, {}),
        "rgb.tga": (rgb, {}),
        "rgb.jp2": (rgb, {}),
        "rgb.ico": (rgb, {}),
    }
    found = {}
    for name, (image, options) in wanted.items():
        out = io.BytesIO()
        kind = {"tif": "TIFF", "jpg": "JPEG", "pgm": "PPM", "jp2": "JPEG2000"}
        end = name.rpartition(".")[2]
        try:
            image.save(out, format=kind.get(end, end.upper()), **options)
        except (KeyError, OSError):  # a codec that this Pillow lacks
            continue
        found[name] = out.getvalue()
    return found


def make(random: Random) -> Example:
    """A picture, changed; of PNG files now and then with sums that are right again."""
    name = random.choice(list(seeds()))
    content = changed(random, seeds()[name], _WORDS, list(seeds().values()))
    if name.endswith(".png") and random.randrange(2):
        content = summed(content)
    return Example(name, content)


def check(example: Example, folder: Path) -> None:
    """RGB of the same values twice, and a file that passes the quick check has a header that can be read."""
    from avalanche_vlm.benchmarks.sources.images import check_ends, read_image

    path = folder / example.name
    path.write_bytes(example.content)
    try:
        check_ends(path)
    except InputError:
        read = None
        try:
            read = read_image(path)
        except InputError:
            return
        raise WrongAccept(f"{example.name} is refused by the quick check and read all the same: {read}") from None
    image = read_image(path)
    if image.mode != "RGB" or min(image.size) < 1:
        raise WrongAccept(f"a picture of mode {image.mode} and size {image.size}")
    if image.size[0] * image.size[1] < 1 << 20 and image.tobytes() != read_image(path).tobytes():
        raise WrongAccept("the same file gives two pictures")


def summed(content: bytes) -> bytes:
    """A PNG file whose chunks have the sums that belong to what they hold.

    :param content: a file that was changed.
    """
    import zlib

    at, out = 8, bytearray(content[:8])
    while at + 12 <= len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        if at + 12 + length > len(content):
            break
        chunk = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + length
    return bytes(out) + content[at:]
