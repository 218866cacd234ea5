"""What is known of the image files of a data set, kept in the user's cache: a file that was checked and has not changed
since is not read again.

A manifest is a safetensors file with a row for each image: the digest of its path (128 bits), its size, the times of
its last changes, how far it was checked, and the digest of its content. It holds no names, and 49 bytes a file. It is a
cache: one that is damaged, or was written under another version of Pillow, counts as empty.
"""

from __future__ import annotations

import os
import stat
import sys
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch

from avalanche_vlm._content import digest, digest_in_pieces
from avalanche_vlm.benchmarks.sources.cache import cache_folder
from avalanche_vlm.benchmarks.sources.inside import container_of, may_lead_inside
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.storage.locks import Lock
from avalanche_vlm.storage.tensor_files import PIECE, TensorFile, write_tensors

UNCHECKED, HEADER, DECODED = range(3)
"""How far a file was checked."""
SETTLED = 2 * 10**9
"""Nanoseconds: a file that was changed so shortly before it was checked may change again without its times showing it,
and is checked again."""

_VERSION = "2"
_NEVER = -1
_NOTHING = (_NEVER, _NEVER, _NEVER)
_MOST = 2**63 - 1
_SAID = attrgetter("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_dev", "st_ino")
_KIND = 0o170000
"""The bits of a file's mode that say whether it is a regular file, a folder or a device."""
_TOGETHER = 1024
"""Files that are looked at together."""
_COMPARED = 1 << 14
"""Files that are compared with what is known together."""
_OTHERS = 2**20
"""Files of a data set that are not among those that were looked at, of which so many stay known at least."""
_APART = 0x5851F42D4C957F2D
"""What devices are multiplied by, so that files of two have different places: any odd number of many digits does."""
_WAIT = 10.0
"""Seconds to wait for another process that writes the same manifest."""


class Files(NamedTuple):
    """Image files as the system sees them.

    :param names: digests of their absolute paths ``[N, 2]``, 64 bits each.
    :param states: size in bytes, and times of the last change of content and of the entry in nanoseconds ``[N, 3]``;
        -1 for what is missing, no regular file, or of a time that 64 bits do not hold.
    :param places: where each lies, whatever path leads there, in a number ``[N]``: of device and number of the file,
        and of the name within it for an image inside another file.
    """

    names: np.ndarray
    states: np.ndarray
    places: np.ndarray

    def at(self, rows: np.ndarray) -> Files:
        """Some of the files.

        :param rows: places in the arrays, or a mask.
        """
        return Files(self.names[rows], self.states[rows], self.places[rows])


class KnownFiles(NamedTuple):
    """What is known of files, by the first 64 bits of their names in ascending order.

    :param names: digests of the paths, as :class:`Files` has them.
    :param states: size and times when the files were checked, as :class:`Files` has them.
    :param levels: how far each was checked ``[N]``: :data:`UNCHECKED`, :data:`HEADER` or :data:`DECODED`.
    :param digests: digests of what the files hold ``[N]``, as integers of 64 bits; 0 where nobody has asked for it.
    """

    names: np.ndarray
    states: np.ndarray
    levels: np.ndarray
    digests: np.ndarray

    def rows_of(self, files: Files) -> np.ndarray:
        """The row of each file that is as it was then ``[N]``; -1 for one that is not known, or has changed.

        :param files: files as they are at present.
        """
        return rows_among(self.names[:, 0], self.names, self.states, files)


def rows_among(
    first: np.ndarray, names: np.ndarray, states: np.ndarray, files: Files, order: np.ndarray | None = None
) -> np.ndarray:
    """The row of each of some files among others ``[N]``; -1 for one that is not among them, or has changed.

    :param first: the first 64 bits of the others' names in ascending order ``[M]``.
    :param names: digests of the others' paths ``[M, 2]``.
    :param states: sizes and times of the others ``[M, 3]``.
    :param files: the files that are looked for or known, each once.
    :param order: the rows of ``names`` and ``states`` in the order of ``first`` ``[M]``; None where it is their own.
    """
    found = np.full(len(files.names), -1, np.int32 if len(first) < 2**31 else np.int64)
    if not len(first):
        return found
    first = np.ascontiguousarray(first)
    for start in range(0, len(found), _COMPARED):  # what is made on the way does not grow with the data then
        wanted, now = files.names[start : start + _COMPARED], files.states[start : start + _COMPARED]
        at = np.minimum(np.searchsorted(first, wanted[:, 0]), len(first) - 1)
        at = at if order is None else order[at]
        same = (names[at] == wanted).all(1) & (states[at] == now).all(1) & (now[:, 0] != _NEVER)
        found[start : start + _COMPARED][same] = at[same]
    return found


def manifest_of(data: Path) -> Path:
    """The file in which a data set's manifest is kept.

    :param data: folder or table of the data set.
    """
    return cache_folder() / "manifests" / f"{digest([os.path.realpath(data)])}.safetensors"


def look_at(paths: Sequence[str | Path]) -> Files:
    """What the system says of files, and of images inside others what it says of the other; none is opened.

    :param paths: paths of image files.
    """
    number, here = len(paths), os.getcwd()
    names, states, places = np.empty((number, 2), np.int64), np.empty((number, 3), np.int64), np.empty(number, np.int64)
    for start in range(0, number, _TOGETHER):
        some = [os.fspath(path) for path in paths[start : start + _TOGETHER]]
        of = slice(start, start + len(some))
        plain = None if may_lead_inside(some) else _regular(some)
        if plain is not None:
            names[of] = np.frombuffer(b"".join([_name(path, here) for path in some]), np.int64).reshape(-1, 2)
            states[of] = plain[:, 1:4]
            places[of] = _place(plain[:, 4], plain[:, 5])
            continue
        for row, path in enumerate(some, start):
            name, states[row], place = seen(path, here)
            names[row] = np.frombuffer(name, np.int64)
            places[row] = place
    return Files(names, states, places)


def _place(device: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Where files lie: their numbers as they are on one device, and those of other devices far from them."""
    return number ^ (device * np.int64(_APART))


def _regular(paths: Sequence[str]) -> np.ndarray | None:
    """What the system says of files (:data:`_SAID`) ``[N, 6]``, with no step of Python's for any of them; None where
    one is missing, no regular file, or of numbers that 64 bits do not hold: each is looked at by itself then."""
    try:
        said = array("q", chain.from_iterable(map(_SAID, map(os.stat, paths))))
    except (OSError, ValueError, OverflowError):
        return None
    found = np.frombuffer(said, np.int64).reshape(-1, 6)
    return found if (found[:, 0] & _KIND == stat.S_IFREG).all() else None


def _name(path: str, here: str) -> bytes:
    """A digest of a path: what its file is known by."""
    whole = path if path[:1] == "/" else os.path.join(here, path)
    # A table can name what no disk takes.
    return blake2b(whole.encode(errors="surrogatepass"), digest_size=16).digest()


def seen(path: str, here: str) -> tuple[bytes, tuple[int, int, int], int]:
    """What the system says of one file: a row of :class:`Files`.

    :param path: path of an image file.
    :param here: the folder that relative paths are relative to.
    :return: name, state and place.
    """
    name = _name(path, here)
    container = container_of(path)
    try:
        known = os.stat(container or path)
        if not stat.S_ISREG(known.st_mode) or not -_MOST <= known.st_mtime_ns <= _MOST >= known.st_ctime_ns:
            return name, _NOTHING, _first_of(name)
    except (OSError, ValueError):
        return name, _NOTHING, _first_of(name)
    state = known.st_size, known.st_mtime_ns, known.st_ctime_ns
    if container is None:
        device, number = np.array([known.st_dev & _MOST]), np.array([known.st_ino & _MOST])
        return name, state, int(_place(device, number)[0])
    within = f"{known.st_dev} {known.st_ino} {Path(path).relative_to(container)}".encode(errors="surrogatepass")
    return name, state, _first_of(blake2b(within, digest_size=8).digest())


def _first_of(digest: bytes) -> int:
    """The first 64 bits of a digest."""
    return int.from_bytes(digest[:8], sys.byteorder, signed=True)


def known_of(read: Callable[[], KnownFiles], files: Files) -> tuple[np.ndarray, np.ndarray]:
    """How far each of some files was checked as it is now ``[N]``, :data:`UNCHECKED` for one that has changed, and the
    digest of what it holds ``[N]``, 0 for one that has changed or was never read for it. Nothing else is kept.

    :param read: gives what is known, which nobody else holds.
    :param files: the files as they are at present.
    """
    known = read()
    rows, levels, digests = known.rows_of(files), known.levels, known.digests
    del known
    return _taken(levels, rows), _taken(digests, rows)


def _taken(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    found = np.zeros(len(rows), values.dtype)
    found[rows >= 0] = values[rows[rows >= 0]]
    return found


def read_known(path: Path) -> KnownFiles:
    """The manifest in a file, empty if there is none, and with a warning if it is damaged.

    :param path: path of the file, which may be anyone's.
    """
    empty = KnownFiles(
        np.empty((0, 2), np.int64), np.empty((0, 3), np.int64), np.empty(0, np.uint8), np.empty(0, np.int64)
    )
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is no regular file")
    except FileNotFoundError:
        return empty
    except (OSError, InputError) as error:
        warnings.warn(f"{error}: images are checked anew", DataWarning, stacklevel=2)
        return empty
    try:
        with TensorFile(path) as file:
            if file.metadata.get("pillow") != PIL.__version__ or file.metadata.get("version") != _VERSION:
                return empty
            return _well_formed(path, file)
    except InputError as error:
        warnings.warn(f"{error}: images are checked anew", DataWarning, stacklevel=2)
        return empty


def keep_known(path: Path, found: KnownFiles, began: int) -> None:
    """Keep what was found, beside what is known of other files of the data set. What cannot be written is warned of:
    nothing but time is lost.

    :param path: path of the manifest.
    :param found: what was found; a file that was neither checked nor read for its content is not kept.
    :param began: when the files were looked at, in nanoseconds since 1970.
    """
    lock = Lock(path.parent, name=f".{path.stem}.lock")
    try:
        lock.acquire(wait=_WAIT)
        try:
            tensors = _merged(found, read_known(path), began)._asdict()
            said = {"version": _VERSION, "pillow": PIL.__version__, "digest": _digest(tensors)}
            write_tensors(path, {name: torch.from_numpy(values) for name, values in tensors.items()}, said)
        finally:
            lock.release()
    except InputError as error:
        warnings.warn(f"{error}: the next start checks these images again", DataWarning, stacklevel=2)


def _merged(found: KnownFiles, before: KnownFiles, began: int) -> KnownFiles:
    """What was found, and what is known besides. Another process may have looked more closely at the same files, or
    later at others in their places: of a file as it was when both looked, what either knows counts; else the later."""
    files = Files(found.names, found.states, found.levels)
    rows, levels, digests = before.rows_of(files), found.levels.copy(), found.digests.copy()
    same = rows >= 0
    levels[same] = np.maximum(levels[same], before.levels[rows[same]])
    digests[same] = np.where(digests[same] == 0, before.digests[rows[same]], digests[same])
    keep = ((levels > UNCHECKED) | (digests != 0)) & (found.states[:, 0] != _NEVER)
    keep &= same | (found.states[:, 1] < began - SETTLED)
    others = np.ones(len(before.levels), bool)
    if len(found.levels):
        at = np.minimum(np.searchsorted(found.names[:, 0], before.names[:, 0]), len(found.levels) - 1)
        both = found.names[at, 0] == before.names[:, 0]
        later = both & (before.states[:, 2] > found.states[at, 2])
        keep[at[later]] = False
        others = ~both | later | ~keep[at]
    left = np.flatnonzero(others)[: max(len(found.levels), _OTHERS)]
    parts = [np.concatenate([new[keep], old[left]]) for new, old in zip(found, before, strict=True)]
    parts[2][: keep.sum()], parts[3][: keep.sum()] = levels[keep], digests[keep]
    order = np.argsort(parts[0][:, 0], kind="stable")
    return KnownFiles(*(of[order] for of in parts))


_FORMS = {
    "names": (torch.int64, (2,)),
    "states": (torch.int64, (3,)),
    "levels": (torch.uint8, ()),
    "digests": (torch.int64, ()),
}
"""Type and form of a row of each array of a manifest."""


def _well_formed(path: Path, file: TensorFile) -> KnownFiles:
    if set(file.places) != set(KnownFiles._fields):
        raise InputError(f"{path} is no manifest of images")
    arrays: dict[str, np.ndarray] = {}

    def pieces() -> Iterator[bytes]:
        for name, (dtype, rest) in _FORMS.items():
            tensor = file.tensor(name)
            number = len(arrays["names"]) if arrays else len(tensor) if tensor.ndim else 0
            if tensor.dtype != dtype or tensor.shape != (number, *rest):
                raise InputError(f"{path} is no manifest of images")
            yield from _pieces(tensor.numpy())
            # The names column by column, of which the first is searched; each array by itself, before the next one.
            arrays[name] = np.asfortranarray(tensor.numpy()) if name == "names" else tensor.numpy()
            del tensor

    if digest_in_pieces(pieces()) != file.metadata.get("digest"):
        raise InputError(f"{path} is damaged")
    first = arrays["names"][:, 0]
    if (arrays["levels"] > DECODED).any() or (first[1:] < first[:-1]).any():
        raise InputError(f"{path} is no manifest of images")
    return KnownFiles(**arrays)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """Of the bytes as they lie there, some at a time: a copy takes as much as what it is of."""
    return digest_in_pieces(piece for name in KnownFiles._fields for piece in _pieces(arrays[name]))


def _pieces(array: np.ndarray) -> Iterator[bytes]:
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    yield len(content).to_bytes(8, "little")
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE].tobytes()
