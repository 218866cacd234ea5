"""What is known of the image files of a data set, kept in the user's cache: a file that was checked and has not changed
since is not read again.

A manifest is a safetensors file with a row for each image: the digest of its path (128 bits), its size, the times of
its last changes, and how far it was checked. It holds no names, and 41 bytes a file. It is a cache: one that is
damaged, or was written under another version of Pillow, counts as empty.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch

from avalanche_vlm._content import digest
from avalanche_vlm.benchmarks.sources.cache import cache_folder
from avalanche_vlm.benchmarks.sources.inside import container_of
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.storage.locks import Lock
from avalanche_vlm.storage.tensor_files import TensorFile, write_tensors

UNCHECKED, HEADER, DECODED = range(3)
"""How far a file was checked."""
SETTLED = 2 * 10**9
"""Nanoseconds: a file that was changed so shortly before it was checked may change again without its times showing it,
and is checked again."""

_VERSION = "1"
_NEVER = -1
_NOTHING = array("q", [_NEVER] * 3)
_WAIT = 10.0
"""Seconds to wait for another process that writes the same manifest."""


class Files(NamedTuple):
    """Image files as the system sees them.

    :param names: digests of their absolute paths ``[N, 2]``, 64 bits each.
    :param states: size in bytes, and times of the last change of content and of the entry in nanoseconds ``[N, 3]``;
        -1 for what is missing, no regular file, or of a time that 64 bits do not hold.
    """

    names: np.ndarray
    states: np.ndarray


class KnownFiles(NamedTuple):
    """What is known.

    :param files: the files, by the first 64 bits of their names in ascending order.
    :param levels: how far each was checked ``[N]``: :data:`HEADER` or :data:`DECODED`.
    """

    files: Files
    levels: np.ndarray


def manifest_of(data: Path) -> Path:
    """The file in which a data set's manifest is kept.

    :param data: folder or table of the data set.
    """
    return cache_folder() / "manifests" / f"{digest([os.path.realpath(data)])}.safetensors"


def look_at(paths: Sequence[Path]) -> Files:
    """What the system says of files, and of images inside others what it says of the other; none is opened.

    :param paths: paths of image files.
    """
    names, states, here = bytearray(), array("q"), os.getcwd()  # rows of arrays would take longer than the system does
    for path in paths:
        text = os.fspath(path)
        whole = os.path.join(here, text).encode(errors="surrogatepass")  # a table can name what no disk takes
        names += hashlib.blake2b(whole, digest_size=16).digest()
        state = _NOTHING
        try:
            known = os.stat(container_of(text) or text)
            if stat.S_ISREG(known.st_mode):
                state = array("q", (known.st_size, known.st_mtime_ns, known.st_ctime_ns))
        except (OSError, OverflowError, ValueError):
            pass
        states += state
    return Files(np.frombuffer(names, np.int64).reshape(-1, 2), np.frombuffer(states, np.int64).reshape(-1, 3))


def known_levels(manifest: KnownFiles, files: Files) -> np.ndarray:
    """How far each of some files was checked as it is now ``[N]``, :data:`UNCHECKED` for one that has changed.

    :param manifest: what is known.
    :param files: the files as they are at present.
    """
    levels = np.zeros(len(files.names), np.uint8)
    if not len(manifest.levels):
        return levels
    at = np.searchsorted(manifest.files.names[:, 0], files.names[:, 0])
    at = np.minimum(at, len(manifest.levels) - 1)
    same = (manifest.files.names[at] == files.names).all(1) & (manifest.files.states[at] == files.states).all(1)
    same &= files.states[:, 0] != _NEVER
    levels[same] = manifest.levels[at[same]]
    return levels


def read_known(path: Path) -> KnownFiles:
    """The manifest in a file, empty if there is none, and with a warning if it is damaged.

    :param path: path of the file, which may be anyone's.
    """
    empty = KnownFiles(Files(np.empty((0, 2), np.int64), np.empty((0, 3), np.int64)), np.empty(0, np.uint8))
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
            said = file.metadata
            tensors = {name: file.tensor(name) for name in file.places}
        if said.get("pillow") != PIL.__version__ or said.get("version") != _VERSION:
            return empty
        return _well_formed(path, tensors, said)
    except InputError as error:
        warnings.warn(f"{error}: images are checked anew", DataWarning, stacklevel=2)
        return empty


def keep_known(path: Path, files: Files, levels: np.ndarray, began: int) -> None:
    """Keep what was found, beside what is known of as many other files of the data set. What cannot be written is
    warned of: nothing but time is lost.

    :param path: path of the manifest.
    :param files: the files that were looked at.
    :param levels: how far each was checked ``[N]``; :data:`UNCHECKED` is not kept, so that it is checked again.
    :param began: when they were looked at, in nanoseconds since 1970.
    """
    keep = (levels > UNCHECKED) & (files.states[:, 0] != _NEVER) & (files.states[:, 1] < began - SETTLED)
    lock = Lock(path.parent, name=f".{path.stem}.lock")
    try:
        lock.acquire(wait=_WAIT)
        try:
            before = read_known(path)
            others = np.flatnonzero(~np.isin(before.files.names[:, 0], files.names[:, 0]))[: len(levels)]
            names = np.concatenate([files.names[keep], before.files.names[others]])
            states = np.concatenate([files.states[keep], before.files.states[others]])
            known = np.concatenate([levels[keep], before.levels[others]])
            order = np.argsort(names[:, 0], kind="stable")
            tensors = {"names": names[order], "states": states[order], "levels": known[order].astype(np.uint8)}
            said = {"version": _VERSION, "pillow": PIL.__version__, "digest": _digest(tensors)}
            write_tensors(path, {name: torch.from_numpy(values) for name, values in tensors.items()}, said)
        finally:
            lock.release()
    except InputError as error:
        warnings.warn(f"{error}: the next start checks these images again", DataWarning, stacklevel=2)


def _well_formed(path: Path, tensors: dict[str, torch.Tensor], said: dict[str, str]) -> KnownFiles:
    forms = {"names": (torch.int64, (2,)), "states": (torch.int64, (3,)), "levels": (torch.uint8, ())}
    if set(tensors) != set(forms):
        raise InputError(f"{path} is no manifest of images")
    number = len(tensors["levels"]) if tensors["levels"].ndim else 0
    for name, (dtype, rest) in forms.items():
        if tensors[name].dtype != dtype or tensors[name].shape != (number, *rest):
            raise InputError(f"{path} is no manifest of images")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    if said.get("digest") != _digest(arrays):
        raise InputError(f"{path} is damaged")
    levels, first = arrays["levels"], arrays["names"][:, 0]
    if (levels < HEADER).any() or (levels > DECODED).any() or (first[1:] < first[:-1]).any():
        raise InputError(f"{path} is no manifest of images")
    return KnownFiles(Files(arrays["names"], arrays["states"]), levels)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    return digest(np.ascontiguousarray(arrays[name]).tobytes() for name in ("names", "states", "levels"))
