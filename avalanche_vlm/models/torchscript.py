"""The tensors of a TorchScript archive, read without running any of its code.

OpenAI published CLIP as TorchScript archives. ``torch.jit.load`` compiles the code in one and runs its ``__setstate__``
methods; here the archive is only a zip file with a pickle of objects, of which tensors are built and all others are
inert, and the code is looked at as text: it says which tensors are weights.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import torch

_SCRIPTED = "__torch__"
_DECLARED = re.compile(r"^  __(?:parameters|buffers)__ = \[(.*)\]$", re.MULTILINE)
_NAME = re.compile(r'"([^"]+)"')
LARGEST_DESCRIPTION = 64 * 2**20
"""Bytes of objects without their tensors, or of the code of one class: CLIP's have some hundred thousand."""
_COMPUTED = "attn_mask"
"""A buffer that every CLIP computes for itself and that a trace writes down as if it were learned."""


@dataclass(frozen=True)
class Archive:
    """What a TorchScript archive says.

    :param tensors: parameters and buffers by their names in the module, in the dtypes of the file.
    :param classes: names of the classes of the module and of all modules in it, without their packages.
    """

    tensors: dict[str, torch.Tensor]
    classes: frozenset[str]


class Refused(pickle.UnpicklingError):
    """An archive wants something that is no tensor and no plain value; the message names it."""


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file with pickled data and code.

    :param path: file that exists.
    """
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # of many kinds, for damaged ends and lists of names; whoever reads it as something else says so
        return False
    return any(n.endswith("/data.pkl") for n in names) and any("/code/" in f"/{n}" for n in names)


def read_torchscript(path: Path) -> Archive:
    """Read the parameters and buffers of a TorchScript archive; nothing in it is executed.

    :param path: archive that ``torch.jit.save`` wrote.
    :return: its tensors, on the CPU, and the names of its classes.
    :raises Refused: if its data ask for anything but tensors and plain values.
    :raises zipfile.BadZipFile: if the archive is damaged; KeyError, ValueError and RuntimeError likewise.
    """
    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = record.removesuffix("data.pkl")
        reader = _Reader(archive, root)
        module = reader.load()
        if not isinstance(module, _Inert):
            raise Refused(f"it holds a {type(module).__name__} and no module")
        tensors = dict(_weights(module, _Declarations(archive, root), "", set()))
    return Archive(tensors, frozenset(name.rpartition(".")[2] for name in reader.scripted))


class _Inert:
    """Stands for an object of a class of the archive: attributes and nothing else."""

    scripted = ""

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        self.attributes: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _Storage:
    """Stands for a class of storages: says the dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class _Reader(pickle.Unpickler):
    """Unpickles the module of an archive. Whatever is called in the course of it is one of the functions below."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(BytesIO(_described(archive, f"{root}data.pkl")))
        self._archive, self._root = archive, root
        self._stored: dict[str, torch.Tensor] = {}
        self.scripted: dict[str, type[_Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == _SCRIPTED or module.startswith(f"{_SCRIPTED}."):
            full = f"{module}.{name}"
            return self.scripted.setdefault(full, type("Scripted", (_Inert,), {"scripted": full}))
        if module == "torch" and name in _STORAGES:
            return _Storage(_STORAGES[name])
        if module == "torch.jit._pickle" and re.fullmatch(r"build_\w+list", name):
            return list
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch.jit._pickle", "restore_type_tag"): _untagged,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise Refused(f"it asks for {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid: Any) -> torch.Tensor:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise Refused(f"it asks for a {kind!r}, which is no storage")
        if key not in self._stored:
            info = self._archive.getinfo(f"{self._root}data/{key}")
            size = count * storage.dtype.itemsize
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != size:
                raise Refused(f"its storage {key} has {info.file_size} bytes where {size} are announced")
            content = bytearray(self._archive.read(info))
            self._stored[key] = torch.frombuffer(content, dtype=storage.dtype) if size else torch.empty(0)
        return self._stored[key]


def _view(storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> torch.Tensor:
    if prod(size) == 0:
        return storage.new_empty(size)
    return storage.as_strided(size, stride, offset)  # torch checks that it lies within the storage


def _untagged(value: Any, _: str) -> Any:
    return value


def _described(archive: zipfile.ZipFile, name: str) -> bytes:
    """A record that describes the module. It may be packed, and announces how much it unpacks to."""
    if (size := archive.getinfo(name).file_size) > LARGEST_DESCRIPTION:
        raise Refused(f"its {name} has {size:,} bytes, and no module needs more than {LARGEST_DESCRIPTION:,} there")
    return archive.read(name)


class _Declarations:
    """Which attributes of a class are parameters and buffers, as its code in the archive says."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root = archive, root
        self._known: dict[str, frozenset[str] | None] = {}

    def of(self, scripted: str) -> frozenset[str] | None:
        """Names of parameters and buffers of a class, None if the archive does not say."""
        if scripted not in self._known:
            self._known[scripted] = self._read(scripted)
        return self._known[scripted]

    def _read(self, scripted: str) -> frozenset[str] | None:
        module, _, name = scripted.rpartition(".")
        try:
            code = _described(self._archive, f"{self._root}code/{module.replace('.', '/')}.py").decode()
        except KeyError:
            return None
        _, found, rest = code.partition(f"class {name}(Module):\n")
        own = rest.partition("\nclass ")[0]
        return frozenset(n for line in _DECLARED.findall(own) for n in _NAME.findall(line)) if found else None


def _weights(
    module: _Inert, declared: _Declarations, prefix: str, above: set[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    attributes = module.attributes
    if not isinstance(attributes, dict) or id(module) in above:
        raise Refused(f"its module {prefix.rstrip('.') or 'itself'} is no tree of attributes")
    own = declared.of(module.scripted)
    for name, value in attributes.items():
        if isinstance(value, _Inert):
            yield from _weights(value, declared, f"{prefix}{name}.", above | {id(module)})
        elif isinstance(value, torch.Tensor) and (own is None or name in own) and name != _COMPUTED:
            yield f"{prefix}{name}", value
