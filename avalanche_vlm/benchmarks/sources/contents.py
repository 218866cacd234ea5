"""What image files hold, by digests. A file whose digest is known and that has not changed is not read for it: what a
process finds out is kept with the data set's :mod:`~avalanche_vlm.benchmarks.sources.manifest`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from avalanche_vlm._content import file_digest
from avalanche_vlm.benchmarks.sources.inside import container_of, digest_inside
from avalanche_vlm.benchmarks.sources.manifest import Files, KnownFiles, keep_known, known_digests, seen, sorted_by_name


class _Found:
    """Files of a data set as they were looked at.

    :param known: what is known of them.
    :param began: when they were looked at, in nanoseconds since 1970.
    """

    def __init__(self, known: KnownFiles, began: int) -> None:
        self.known, self.began, self.changed = known, began, False


_FOUND: dict[tuple[Path, int], _Found] = {}
"""What this process knows, by the path of the data set's manifest and which of its files they are."""
_MOST = 32
"""So many of them: a process that goes on for long opens data sets without end."""


def remember(manifest: Path, files: Files, levels: np.ndarray, digests: np.ndarray, began: int) -> KnownFiles:
    """Know files of a data set from here on, in the place of those that were known of it before.

    :param manifest: path of the data set's manifest.
    :param files: the files as they were looked at.
    :param levels: how far each was checked ``[N]``.
    :param digests: digests of what the files hold ``[N]``, 0 where it is not known.
    :param began: when they were looked at, in nanoseconds since 1970.
    :return: what is known of them, as a manifest has it.
    """
    key = manifest, hash(files.names.tobytes())
    if (before := _FOUND.pop(key, None)) is not None:
        digests = np.where(digests == 0, known_digests(before.known, files), digests)
    found = _FOUND[key] = _Found(sorted_by_name(files, levels, digests), began)
    found.changed = before is not None and before.changed
    while len(_FOUND) > _MOST:
        _keep(oldest := next(iter(_FOUND)), _FOUND.pop(oldest))
    return found.known


@contextmanager
def contents_kept() -> Iterator[None]:
    """Write down in the end what has become known meanwhile, whatever ends it: to read every file may take hours."""
    try:
        yield
    finally:
        for key, found in _FOUND.items():
            _keep(key, found)


def _keep(key: tuple[Path, int], found: _Found) -> None:
    if found.changed:
        keep_known(key[0], found.known, found.began)
        found.changed = False


def content_at_path(path: str | Path) -> str:
    """A digest of what an image file holds, as :func:`~avalanche_vlm._content.file_digest` gives it.

    :param path: path of an image file, or of an image inside another file.
    :raises InputError: if it has to be read and cannot be.
    """
    name, state, _ = seen(os.fspath(path), os.getcwd())
    wanted = int.from_bytes(name[:8], sys.byteorder, signed=True)
    there = []
    for found in reversed(_FOUND.values()) if state[0] >= 0 else ():
        known = found.known
        row = int(known.names[:, 0].searchsorted(wanted))
        if row < len(known.names) and known.names[row].tobytes() == name and tuple(known.states[row].tolist()) == state:
            if known.digests[row]:
                return as_digits(known.digests[row : row + 1])
            there.append((found, row))
    digits = digest_of(Path(path))
    for found, row in there:
        found.known.digests[row], found.changed = as_number(digits), True
    return digits


def contents_of(paths: Sequence[str | Path], files: Files) -> np.ndarray:
    """Digests of what files hold, as integers of 64 bits ``[N]``.

    :param paths: paths of N image files.
    :param files: what the system says of them.
    :raises InputError: if one has to be read and cannot be.
    """
    digests = np.zeros(len(paths), np.int64)
    for found in _FOUND.values():
        digests = np.where(digests == 0, known_digests(found.known, files), digests)
    for row in np.flatnonzero(digests == 0).tolist():
        digests[row] = as_number(content_at_path(paths[row]))
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
