"""Members of tar files by path, ``shard.tar/0001.jpg``, read where they lie: nothing is unpacked.

Of a tar the headers alone are read, once for a process and again when it has changed; what is kept of a member is the
digest of its name, its place and its length, 24 bytes. A member is read by itself, up to a size that was stated before.
Tars come from anyone: headers have a size at most, members that are no regular files or have no name below the tar are
passed over, and nothing that a tar holds is written to disk or run.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from avalanche_vlm._given import open_regular
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import human_bytes

SUFFIX = ".tar"
HEADER_BYTES = 2**20
"""The most that the headers of one member have: names and times."""

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class Member(NamedTuple):
    """A regular file in a tar.

    :param name: its name there, relative, with slashes.
    :param offset: place of its first byte.
    :param size: number of its bytes.
    """

    name: str
    offset: int
    size: int


class _Index(NamedTuple):
    """Where the members of a tar lie.

    :param state: length and time of the last change of the tar.
    :param names: digests of the members' names ``[N]``, ascending.
    :param places: offset and size ``[N, 2]``.
    """

    state: tuple[int, int]
    names: np.ndarray
    places: np.ndarray


_INDICES: dict[str, _Index] = {}
"""What is known of tars in this process, by path."""


def members_of(shard: Path) -> Iterator[tuple[Member, BinaryIO]]:
    """The regular files in a tar, in their order; the headers alone are read.

    :param shard: path of the tar.
    :return: each member with the open tar, of which it may be read before the next one is asked for.
    :raises InputError: in one sentence, if it is no plain tar, is damaged, ends early, or has headers of more than
        :data:`HEADER_BYTES`.
    """
    try:
        with open_regular(shard) as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(0)
            if file.read(6).startswith(_COMPRESSED):
                raise InputError(f"{shard} is compressed: a plain tar is read, of which every member can be found")
            file.seek(0)
            for found in _headers(shard, file):
                # Members that are no files, such as links, and those that would be found elsewhere by their names.
                if not found.isreg() or not _is_below(found.name):
                    continue
                if found.issparse():
                    raise InputError(f"{shard}: {found.name} is stored with holes, which is not read")
                if found.offset_data + found.size > length:
                    raise InputError(f"{shard} ends in the middle of {found.name}")
                yield Member(_plain(found.name), found.offset_data, found.size), file
    except OSError as error:
        raise InputError(f"cannot read {shard}: {error.strerror or error}") from error


def member_at(shard: Path, path: Path) -> tuple[int, Callable[[], bytes]]:
    """A member by its path.

    :param shard: path of the tar.
    :param path: path of the member, below the tar's.
    :return: the number of its bytes, and what reads them, which raises an ``InputError`` if the tar ends before.
    :raises InputError: in one sentence, if there is none.
    """
    offset, size = _found(shard, path)

    def read() -> bytes:
        try:
            with open_regular(shard) as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise InputError(f"cannot read {shard}: {error.strerror or error}") from error
        if len(content) != size:
            raise InputError(f"{shard} ends in the middle of {path.name}")
        return content

    return size, read


def _headers(shard: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar; memory is that of one member."""
    guarded = _Guarded(shard, file)
    try:
        with tarfile.open(fileobj=guarded, mode="r:", errors="surrogateescape") as tar:  # type: ignore[call-overload]
            while (found := tar.next()) is not None:
                tar.members, tar.pax_headers = (
                    [],
                    {},
                )  # which would grow with every member, and be gone through for each
                if found.size < 0:
                    raise InputError(f"{shard} is damaged: {found.name} has a size below 0")
                guarded.left = HEADER_BYTES
                yield found
    except (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{shard} is no tar that can be read: {' '.join(str(error).split())}") from error


class _Guarded:
    """A file of which no more is read than the headers of a member take."""

    def __init__(self, shard: Path, file: BinaryIO) -> None:
        self.shard, self.file, self.left = shard, file, HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        """So many bytes.

        :param size: number of bytes, 0 or more.
        :raises InputError: if that is more than headers have.
        """
        if not 0 <= size <= self.left:
            raise InputError(f"{self.shard} has headers of more than {human_bytes(HEADER_BYTES)} for one member")
        self.left -= size
        return self.file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place.

        :param place: number of bytes.
        :param whence: where they are counted from, as :meth:`io.IOBase.seek` has it.
        """
        return self.file.seek(place, whence)

    def tell(self) -> int:
        """The present place."""
        return self.file.tell()


def _plain(name: str) -> str:
    """A member's name as a path has it."""
    return Path(name).as_posix()


def _is_below(name: str) -> bool:
    """Whether a name leads to a place below the tar."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _found(shard: Path, path: Path) -> tuple[int, int]:
    """Offset and size of a member."""
    index = _index(shard)
    name = path.relative_to(shard).as_posix()
    wanted = _number(name)
    at = int(np.searchsorted(index.names, wanted))
    if at == len(index.names) or index.names[at] != wanted:
        raise InputError(f"{shard} has no {name}")
    offset, size = index.places[at].tolist()
    return offset, size


def _index(shard: Path) -> _Index:
    known = os.stat(shard)
    state = known.st_size, known.st_mtime_ns
    index = _INDICES.get(str(shard))
    if index is None or index.state != state:
        index = _INDICES[str(shard)] = _indexed(shard, state)
    return index


def _indexed(shard: Path, state: tuple[int, int]) -> _Index:
    rows: Any = np.fromiter(
        ((_number(of.name), of.offset, of.size) for of, _ in members_of(shard)), np.dtype((np.int64, 3))
    )
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    if (rows[1:, 0] == rows[:-1, 0]).any():
        raise InputError(f"{shard} has two files of one name, and a path leads to one alone")
    return _Index(state, rows[:, 0].copy(), rows[:, 1:].copy())


def _number(name: str) -> int:
    found = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found, "little", signed=True)
