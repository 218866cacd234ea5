"""Pictures in one file: MNIST's idx files, and CIFAR's, which are pickles, read so that nothing in them can run."""

from __future__ import annotations

import gzip
import math
import os
import pickle
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from avalanche_vlm._given import open_regular
from avalanche_vlm._memory import refuse_beyond
from avalanche_vlm.benchmarks.sources.labelled import LabelledPart, LabelledSet, refuse_labels, spaced
from avalanche_vlm.errors import InputError

_UNSIGNED_BYTES = 0x08
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""All that a pickled array is made with."""


def idx_files(root: Path, folder: str, parts: Mapping[str, tuple[str, str]], names: list[str]) -> LabelledSet:
    """Pictures and labels in idx files, zipped or not.

    :param root: folder that holds the data sets.
    :param folder: folder of the files, relative to ``root``.
    :param parts: files with the pictures and with the labels of each part.
    :param names: names of the classes.
    :raises InputError: if a file is no idx file of pictures or of labels, pictures and labels are not as many,
        or a label is that of no class.
    """
    found = {}
    for part, (pictures, labels) in parts.items():
        images, of = read_idx(root / folder / pictures, 3), read_idx(root / folder / labels, 1)
        if len(images) != len(of):
            raise InputError(f"{root / folder / pictures} has {len(images)} pictures, and {labels} {len(of)} labels")
        if 0 in images.shape[1:]:
            raise InputError(f"{root / folder / pictures} has pictures without pixels")
        refuse_labels(of.tolist(), len(names), root / folder / labels)
        found[part] = LabelledPart(images, of.astype(np.int64))
    return LabelledSet(list(names), found, list(names))


def read_idx(path: Path, rank: int) -> np.ndarray:
    """The array in an idx file of bytes.

    :param path: the file, or where it would be without ``.gz``.
    :param rank: number of the array's dimensions: 3 for pictures, 1 for labels.
    :raises InputError: if there is none, it is cut or of another kind or rank, or it does not fit in memory.
    """
    zipped = path.with_name(path.name + ".gz")
    with _open(path if path.exists() or not zipped.exists() else zipped) as file:
        content = gzip.GzipFile(fileobj=file) if not path.exists() else file
        try:
            head = content.read(4)
            if len(head) < 4 or head[:3] != bytes((0, 0, _UNSIGNED_BYTES)):
                raise InputError(f"{path} is no idx file of bytes")
            if head[3] != rank:
                raise InputError(f"{path} holds an array of {head[3]} dimensions, not of {rank}")
            sizes = content.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise InputError(f"{path} is cut: it ends in its header")
            shape = struct.unpack(f">{head[3]}I", sizes)
            wanted = math.prod(shape)
            refuse_beyond(2 * wanted, f"what is read of {path}")
            values = content.read(wanted + 1)  # nothing is unpacked beyond what the header says
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"cannot read {path}: {error}") from error
    if len(values) != wanted:
        raise InputError(f"{path} is cut, or has more than its header says: {' x '.join(map(str, shape))} bytes")
    return np.frombuffer(bytearray(values), np.uint8).reshape(shape)


def pickled_pictures(root: Path, folder: str, parts: Mapping[str, str], labels: str, names: str) -> LabelledSet:
    """CIFAR's pictures: pickled objects with ``data`` ``[N, 3072]`` and labels.

    :param root: folder that holds the data sets.
    :param folder: folder of the files, relative to ``root``.
    :param parts: file of each part.
    :param labels: what the labels are called, such as ``fine_labels``.
    :param names: what the list of class names in the file ``meta`` is called.
    :raises InputError: if a file holds something else, or a label is that of no class.
    """
    home = root / folder
    named = _unpickled(home / "meta").get(names)
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise InputError(f"{home / 'meta'} has no class names under {names!r}")
    found = {}
    for part, name in parts.items():
        content = _unpickled(home / name)
        data, of = content.get("data"), content.get(labels)
        if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072):
            raise InputError(f"{home / name} has no pictures of 32 x 32 pixels under 'data'")
        if not isinstance(of, list) or len(of) != len(data) or not all(type(label) is int for label in of):
            raise InputError(f"{home / name} has no label for each picture under {labels!r}")
        refuse_labels(of, len(named), home / name)
        images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        found[part] = LabelledPart(images, np.asarray(of, dtype=np.int64))
    return LabelledSet([spaced(name) for name in named], found, named)


class _ArraysOnly(pickle.Unpickler):
    """Arrays, lists, texts and numbers, and nothing that would have to be imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickled(path: Path) -> dict[str, Any]:
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        refuse_beyond(3 * size, f"what is read of {path}")
        try:
            content = _ArraysOnly(file, encoding="latin1").load()
        except Exception as error:  # of a damaged pickle of any kind
            raise InputError(f"{path} is not one of CIFAR's files: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not one of CIFAR's files: it holds no object")
    return content


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
