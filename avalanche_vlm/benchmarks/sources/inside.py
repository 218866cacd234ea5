"""Images inside other files, by paths that lead into them: members of tars (``shard.tar/0001.jpg``) and cells of
Parquet tables (``table.parquet/image/12``). Whoever opens images asks here, and knows no kind of container."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from avalanche_vlm._content import ENDS, WHOLE, digest
from avalanche_vlm._given import RECORD_BYTES
from avalanche_vlm.benchmarks.sources import cells, tars
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import human_bytes

INSIDE_BYTES = RECORD_BYTES
"""The most that an image inside another file has which is read."""

_TOGETHER = 1024

_KINDS = {tars.SUFFIX: tars.member_at, cells.SUFFIX: cells.cell_at}
"""By the suffix of the container: what gives the size of what a path leads to, and what reads it."""


def container_of(path: str | Path) -> Path | None:
    """The file that a path leads into; None where it leads into none.

    :param path: path of an image inside another file, or any other.
    """
    text = os.fspath(path).lower()
    for suffix in _KINDS:
        if suffix in text:
            break
    else:  # which is so of every path of most data sets
        return None
    return next((of for of in Path(path).parents if of.suffix.lower() in _KINDS and os.path.isfile(of)), None)


def may_lead_inside(paths: Sequence[str]) -> bool:
    """Whether any of some paths may lead into another file, as far as their texts tell: of most data sets none does.

    :param paths: some hundred paths of images, which are looked at together.
    """
    text = "\n".join(paths).lower()
    return any(suffix in text for suffix in _KINDS)


def leading_inside(paths: Sequence[str | Path]) -> Iterator[int]:
    """The places of the paths that lead into other files.

    :param paths: paths of images.
    """
    for start in range(0, len(paths), _TOGETHER):
        some = [os.fspath(path) for path in paths[start : start + _TOGETHER]]
        if may_lead_inside(some):
            yield from (start + row for row, path in enumerate(some) if container_of(path) is not None)


def size_at(path: Path) -> int:
    """The number of bytes of an image file, or of an image inside another file.

    :param path: path of either, which exists.
    :raises InputError: if a container holds nothing there.
    """
    container = container_of(path)
    return path.stat().st_size if container is None else _KINDS[container.suffix.lower()](container, path)[0]


def content_inside(path: Path, most: int = INSIDE_BYTES) -> bytes:
    """What a container holds at a path.

    :param path: path that leads into a container.
    :param most: bytes that it may have.
    :raises InputError: in one sentence, if there is nothing, or more.
    """
    container = container_of(path)
    if container is None:
        raise InputError(f"{path} lies in no tar and no Parquet table")
    return _content(container, path, most)


def opened_inside(path: Path) -> BinaryIO | None:
    """An image inside another file, open for reading in memory; None for a path that leads into none.

    :param path: path of an image.
    :raises InputError: as :func:`content_inside` does.
    """
    container = container_of(path)
    return None if container is None else BytesIO(_content(container, path, INSIDE_BYTES))


def _content(container: Path, path: Path, most: int) -> bytes:
    size, read = _KINDS[container.suffix.lower()](container, path)
    if size > most:
        raise InputError(
            f"{path} has {human_bytes(size)}, and what lies in another file is read up to {human_bytes(most)}"
        )
    return read()


def digest_inside(path: Path) -> str:
    """What :func:`~avalanche_vlm._content.file_digest` would give of what a path leads to if it lay on the disk.

    :param path: path that leads into a container.
    :raises InputError: as :func:`content_inside` does.
    """
    content = content_inside(path)
    parts = [content] if len(content) <= WHOLE else [content[:ENDS], content[-ENDS:]]
    return digest([str(len(content)), *parts])
