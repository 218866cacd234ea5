"""Files that somebody has given: they hold anything, and may be no files at all.

A pipe or a socket in the place of a file never ends its answer, a device has no end, and a link can lead to either; so
what is read is a regular file, of a size that was stated before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from avalanche_vlm.errors import InputError
from avalanche_vlm.units import human_bytes

SETTINGS_BYTES = 16 * 2**20
"""The most that a file of settings, names or prompts has: what people write, and programs write for them."""

RECORD_BYTES = 256 * 2**20
"""The most that a file has in which this package writes down what something is: of a state, of a model, of a run."""


@contextmanager
def open_regular(path: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """A regular file, open for reading. Nothing that is no such file is waited for.

    :param path: path of the file; a link is followed.
    :param most: bytes that it may have; None for any number.
    :raises InputError: if it is a folder, a pipe, a socket or a device, or larger than that.
    :raises OSError: if it is missing, or cannot be read.
    """
    refuse_irregular(path)  # before it is opened: a device may act on that
    # Should a pipe have come in its place since: without O_NONBLOCK the opening itself waits for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        known = os.fstat(file.fileno())
        _check(path, known.st_mode)
        if most is not None and known.st_size > most:
            raise InputError(too_large(path, known.st_size, most))
        yield file


def content_of(path: Path, most: int) -> bytes:
    """What a regular file holds.

    :param path: path of the file; a link is followed.
    :param most: bytes that it may have. A file that grows meanwhile is not read beyond them.
    :raises InputError: as :func:`open_regular` does.
    :raises OSError: if it is missing, or cannot be read.
    """
    with open_regular(path, most) as file:
        found = file.read(most + 1) or b""  # None of a file of the system's that has nothing to say yet
    if len(found) > most:
        raise InputError(too_large(path, len(found), most))
    return found


def refuse_irregular(path: Path) -> None:
    """Refuse what is no file with a content of its own.

    :param path: path of the file; a link is followed.
    :raises InputError: if it is a folder, a pipe, a socket or a device, or no path at all.
    :raises OSError: if it is missing, or out of reach.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a null byte in it
        raise InputError(f"{str(path)!r} is no path: {error}") from error
    _check(path, mode)


def too_large(path: Path, there: int, most: int) -> str:
    """The sentence on a file that is larger than what is read.

    :param path: path of the file.
    :param there: bytes that it has at least.
    :param most: bytes that it may have.
    """
    return f"{path} has {human_bytes(there)} or more, and such a file is read up to {human_bytes(most)}"


def _check(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    raise InputError(f"{path} is no regular file, but {kinds.get(stat.S_IFMT(mode), 'something else')}")
