"""What image files hold, by digests. A file whose digest is known and that has not changed is not read for it: what a
process finds out is kept with the data set's :mod:`~avalanche_vlm.benchmarks.sources.manifest`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np

from avalanche_vlm._content import file_digest
from avalanche_vlm.benchmarks.sources.inside import container_of, digest_inside
from avalanche_vlm.benchmarks.sources.manifest import Files, KnownFiles, keep_known, rows_among, seen


class _Found:
    """Files of a data set as they were looked at, which may be millions: they stay in the order in which that was.

    :param files: the files that are looked for or known, each once.
    :param levels: how far each was checked ``[N]``.
    :param digests: digests of what the files hold ``[N]``, 0 where it is not known.
    :param began: when they were looked at, in nanoseconds since 1970.
    """

    def __init__(self, files: Files, levels: np.ndarray, digests: np.ndarray, began: int) -> None:
        self.names, self.states, self.levels, self.digests = files.names, files.states, levels, digests
        self.began, self.changed = began, False
        order = np.argsort(files.names[:, 0], kind="stable")
        self.order = order.astype(np.int32) if len(order) < 2**31 else order
        self.first = files.names[self.order, 0]

    def digests_of(self, files: Files) -> np.ndarray:
        """The digest of what each of some files holds ``[N]``, 0 for one that has changed or was never read for it."""
        rows = rows_among(self.first, self.names, self.states, files, self.order)
        found = np.zeros(len(rows), np.int64)
        found[rows >= 0] = self.digests[rows[rows >= 0]]
        return found

    def row_of(self, name: bytes, state: tuple[int, int, int]) -> int | None:
        """The row of a file as it is; None for one that is not known, or has changed."""
        at = int(self.first.searchsorted(int.from_bytes(name[:8], sys.byteorder, signed=True)))
        if at == len(self.first):
            return None
        row = int(self.order[at])
        return row if self.names[row].tobytes() == name and tuple(self.states[row].tolist()) == state else None

    def keep(self, manifest: Path) -> None:
        """Write down what is known.

        :param manifest: path of the data set's manifest.
        """
        known = KnownFiles(*(of[self.order] for of in (self.names, self.states, self.levels, self.digests)))
        keep_known(manifest, known, self.began)
        self.changed = False


_FOUND: dict[tuple[Path, str], _Found] = {}
"""What this process knows, by the path of the data set's manifest and which of its files they are."""
_TOGETHER = 1 << 14
"""Files that are compared with what is known together: what that takes besides does not grow with the data."""
_MOST = 32
"""So many of them: a process that goes on for long opens data sets without end."""


def remember(
    manifest: Path, files: Files, levels: np.ndarray, digests: np.ndarray, began: int, write: bool = False
) -> None:
    """Know files of a data set from here on, in the place of those that were known of it before.

    :param manifest: path of the data set's manifest.
    :param files: the files as they were looked at.
    :param levels: how far each was checked ``[N]``.
    :param digests: digests of what the files hold ``[N]``, 0 where it is not known.
    :param began: when they were looked at, in nanoseconds since 1970.
    :param write: whether what is known of them is written down at once.
    """
    key = manifest, blake2b(np.ascontiguousarray(files.names).data, digest_size=16).hexdigest()
    if (before := _FOUND.pop(key, None)) is not None:
        digests = np.where(digests == 0, before.digests_of(files), digests)
    found = _FOUND[key] = _Found(files, levels, digests, began)
    found.changed = before is not None and before.changed
    while len(_FOUND) > _MOST:
        _keep(oldest := next(iter(_FOUND)), _FOUND.pop(oldest))
    if write:
        found.keep(manifest)


@contextmanager
def contents_kept() -> Iterator[None]:
    """Write down in the end what has become known meanwhile, whatever ends it: to read every file may take hours."""
    try:
        yield
    finally:
        for key, found in _FOUND.items():
            _keep(key, found)


def _keep(key: tuple[Path, str], found: _Found) -> None:
    if found.changed:
        found.keep(key[0])


def content_at_path(path: str | Path) -> str:
    """A digest of what an image file holds, as :func:`~avalanche_vlm._content.file_digest` gives it.

    :param path: path of an image file, or of an image inside another file.
    :raises InputError: if it has to be read and cannot be.
    """
    name, state, _ = seen(os.fspath(path), os.getcwd())
    there = []
    for found in reversed(_FOUND.values()) if state[0] >= 0 else ():
        if (row := found.row_of(name, state)) is not None:
            if found.digests[row]:
                return as_digits(found.digests[row : row + 1])
            there.append((found, row))
    digits = digest_of(Path(path))
    for found, row in there:
        found.digests[row], found.changed = as_number(digits), True
    return digits


def contents_of(paths: Sequence[str | Path], files: Files, rows: np.ndarray | None = None) -> np.ndarray:
    """Digests of what files hold, as integers of 64 bits ``[N]``.

    :param paths: paths of image files.
    :param files: what the system says of them.
    :param rows: places of the N of them that are asked for; None for all.
    :raises InputError: if one has to be read and cannot be.
    """
    wanted = np.arange(len(paths)) if rows is None else rows
    digests = np.zeros(len(wanted), np.int64)
    for start in range(0, len(wanted), _TOGETHER):
        some, mine = wanted[start : start + _TOGETHER], digests[start : start + _TOGETHER]
        seen_now = files.at(some)
        for found in _FOUND.values():
            np.copyto(mine, found.digests_of(seen_now), where=mine == 0)
        for place in np.flatnonzero(mine == 0).tolist():
            mine[place] = as_number(content_at_path(paths[int(some[place])]))
    return digests


def digest_of(path: Path) -> str:
    """A digest of what an image file holds, which is read for it.

    :param path: path of an image file, or of an image inside another file.
    :raises InputError: if it cannot be read.
    """
    return file_digest(path) if container_of(path) is None else digest_inside(path)


def as_digits(numbers: np.ndarray) -> str:
    """Digests as they are written, 16 digits each, one behind the other.

    :param numbers: whole numbers of 64 bits with a sign ``[N]``.

    >>> as_digits(np.array([255, -1]))
    '00000000000000ffffffffffffffffff'
    """
    return numbers.astype(">i8").tobytes().hex()


def as_number(digest: str) -> int:
    """A digest of 64 bits as a whole number that an array holds.

    :param digest: 16 hexadecimal digits.

    >>> as_number("00000000000000ff"), as_number("ffffffffffffffff")
    (255, -1)
    """
    number = int(digest, 16)
    return number - 2**64 if number >= 2**63 else number
