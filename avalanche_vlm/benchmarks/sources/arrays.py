"""Pictures in one file: MNIST's idx files, and CIFAR's, which are pickles, read so that nothing in them can run."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_vlm.benchmarks.sources.labelled import LabelledPart, LabelledSet, spaced
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
    :raises InputError: if a file is no idx file of bytes, or pictures and labels are not as many.
    """
    found = {}
    for part, (pictures, labels) in parts.items():
        images, of = read_idx(root / folder / pictures), read_idx(root / folder / labels)
        if len(images) != len(of):
            raise InputError(f"{root / folder / pictures} has {len(images)} pictures, and {labels} {len(of)} labels")
        found[part] = LabelledPart(images, of.astype(np.int64))
    return LabelledSet(list(names), found, list(names))


def read_idx(path: Path) -> np.ndarray:
    """The array in an idx file of bytes.

    :param path: the file, or where it would be without ``.gz``.
    :raises InputError: if there is none, or it is cut or of another kind.
    """
    zipped = path.with_name(path.name + ".gz")
    try:
        content = path.read_bytes() if path.exists() or not zipped.exists() else gzip.decompress(zipped.read_bytes())
    except (OSError, EOFError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) < 4 or content[:3] != bytes((0, 0, _UNSIGNED_BYTES)):
        raise InputError(f"{path} is no idx file of bytes")
    dims = content[3]
    if len(content) < 4 + 4 * dims:
        raise InputError(f"{path} is cut: it ends in its header")
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    if len(content) != 4 + 4 * dims + int(np.prod(shape, dtype=np.int64)):
        raise InputError(f"{path} is cut: its header says {' x '.join(map(str, shape))} bytes")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def pickled_pictures(root: Path, folder: str, parts: Mapping[str, str], labels: str, names: str) -> LabelledSet:
    """CIFAR's pictures: pickled objects with ``data`` ``[N, 3072]`` and labels.

    :param root: folder that holds the data sets.
    :param folder: folder of the files, relative to ``root``.
    :param parts: file of each part.
    :param labels: what the labels are called, such as ``fine_labels``.
    :param names: what the list of class names in the file ``meta`` is called.
    :raises InputError: if a file holds something else.
    """
    home = root / folder
    found = {}
    for part, name in parts.items():
        content = _unpickled(home / name)
        data, of = content.get("data"), content.get(labels)
        if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072):
            raise InputError(f"{home / name} has no pictures of 32 x 32 pixels under 'data'")
        if not isinstance(of, list) or len(of) != len(data) or not all(isinstance(label, int) for label in of):
            raise InputError(f"{home / name} has no label for each picture under {labels!r}")
        images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        found[part] = LabelledPart(images, np.asarray(of, dtype=np.int64))
    named = _unpickled(home / "meta").get(names)
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise InputError(f"{home / 'meta'} has no class names under {names!r}")
    return LabelledSet([spaced(name) for name in named], found, named)


class _ArraysOnly(pickle.Unpickler):
    """Arrays, lists, texts and numbers, and nothing that would have to be imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # of a damaged pickle of any kind
        raise InputError(f"{path} is not one of CIFAR's files: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not one of CIFAR's files: it holds no object")
    return content
