"""What a state on disk consists of: one JSON file that says which tensors and values it has, and that seals itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avalanche_vlm._given import RECORD_BYTES, content_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import reason, written
from avalanche_vlm.storage.layout import TensorForm, checked

FORMAT = 1
"""Version of the format that is written, and the one that is read."""
OBJECTS = "objects"
"""Folder of the tensors' files beside the manifests."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SEAL = b'{"sha256":"%s",'


class OtherFormatError(InputError):
    """A whole file of another version of this package."""


class OutOfReachError(InputError):
    """A file that the system does not let one read now: what it holds is not known, and may be whole."""


@dataclass(frozen=True)
class Content:
    """A tensor of a state: which bytes, where they lie, and what tensor they make.

    :param digest: SHA-256 of type, sizes in memory and bytes.
    :param file: name of the file in the folder of objects, without its ending; 64 hexadecimal digits.
    :param layout: type, shape and strides of the tensor.
    """

    digest: str
    file: str
    layout: TensorForm


@dataclass(frozen=True)
class Value:
    """A JSON value of a state.

    :param value: any plain JSON value.
    """

    value: Any


@dataclass(frozen=True)
class Manifest:
    """A state on disk.

    :param name: what it is called, the name of its file without ``.json``.
    :param kind: what kind of state it is, ``"training"`` for example.
    :param serial: number that grows with every state that is written to the folder.
    :param about: JSON values that its writer says of it.
    :param entries: tensors and JSON values by name, in the order of the state.
    """

    name: str
    kind: str
    serial: int
    about: dict[str, Any]
    entries: dict[str, Content | Value]

    def contents(self) -> Iterator[Content]:
        """The tensors' contents, one for each name."""
        return (entry for entry in self.entries.values() if isinstance(entry, Content))

    def files(self) -> set[str]:
        """Names of the files of objects that it refers to."""
        return {content.file for content in self.contents()}


def manifest_path(folder: Path, name: str) -> Path:
    """The file of a state.

    :param folder: folder of states.
    :param name: what the state is called.
    :raises InputError: if no file of the folder can have the name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"a state in {folder} cannot be called {name!r}: letters, digits and . _ + = - make a name, "
            "which does not begin with a dot and has 200 of them at most"
        )
    return folder / f"{name}.json"


def listed(folder: Path) -> list[Path]:
    """The descriptions of states in a folder, whole or not.

    :param folder: folder of states, which need not be there.
    :return: files sorted by name.
    :raises InputError: if the folder cannot be read.
    """
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".json") and name[0] != ".")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {folder}: {reason(error)}") from error


def object_path(folder: Path, file: str) -> Path:
    """A file of tensors.

    :param folder: folder of states.
    :param file: 64 hexadecimal digits.
    """
    return folder / OBJECTS / f"{file}.safetensors"


def encoded(manifest: Manifest) -> bytes:
    """The text of a manifest, sealed by its digest.

    :param manifest: what is to be written.
    """
    content = {
        "format": FORMAT,
        "kind": manifest.kind,
        "name": manifest.name,
        "serial": manifest.serial,
        "about": manifest.about,
        "state": {name: _described(entry) for name, entry in manifest.entries.items()},
    }
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()[1:] + b"\n"
    return _SEAL % hashlib.sha256(body).hexdigest().encode() + body


def write_manifest(folder: Path, manifest: Manifest, *, sync: bool = True) -> Path:
    """Write a manifest; the old one of its name is there until the new one is on the disk.

    :param folder: folder of states.
    :param manifest: what is to be written.
    :param sync: whether it is on the disk when this is over.
    :return: path of the file that was written.
    :raises OSError: if it cannot be written.
    """
    path = manifest_path(folder, manifest.name)
    with written(path, sync=sync) as file:
        file.write(encoded(manifest))
    return path


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    :param path: path of the file that describes the state.
    :raises InputError: if it is missing, truncated, changed, or of another format.
    """
    try:
        text = content_of(path, RECORD_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except OSError as error:
        raise OutOfReachError(f"cannot read {path}: {reason(error)}") from error
    body = text[len(_SEAL % (b"0" * 64)) :]
    if text != _SEAL % hashlib.sha256(body).hexdigest().encode() + body:
        raise InputError(f"{path} is truncated, was changed, or is not the description of a state")
    try:
        found = json.loads(text, parse_constant=_no_number)
        version = found["format"]
        if version != FORMAT:
            raise OtherFormatError(f"{path} has format {version!r}; this version reads format {FORMAT}")
        manifest = Manifest(
            name=str(found["name"]),
            kind=str(found["kind"]),
            serial=int(found["serial"]),
            about=dict(found["about"]),
            entries={name: _entry(entry) for name, entry in found["state"].items()},
        )
    except OtherFormatError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        why = f": {error}" if isinstance(error, InputError) else ""
        raise InputError(f"{path} is damaged{why}") from error
    if manifest.name != path.stem:
        raise InputError(f"{path} is the description of another state, {manifest.name!r}")
    return manifest


def check_value(name: str, value: Any) -> None:
    """See whether JSON gives a value back as it is.

    :param name: what the value is called, for the error.
    :param value: what is to be kept.
    :raises TypeError: if it is no plain JSON value: a tuple, NaN, a key that is no text.
    """
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if type(part) is dict:
            if not all(type(key) is str for key in part):
                raise TypeError(f"{name!r} cannot be kept: a JSON object has texts as keys")
            waiting += [(entry, depth + 1) for entry in part.values()]
        elif type(part) is list:
            waiting += [(entry, depth + 1) for entry in part]
        elif part is not None and type(part) not in (bool, int, float, str):
            raise TypeError(f"{name!r} cannot be kept: a {type(part).__name__} is neither a tensor nor JSON")
        elif type(part) is float and not float("-inf") < part < float("inf"):
            raise TypeError(f"{name!r} cannot be kept: JSON has no {part}")
        elif type(part) is int and abs(part) >= 1 << 4096:
            raise TypeError(f"{name!r} cannot be kept: it has a whole number of more than 4096 bits")
        if depth > 200:
            raise TypeError(f"{name!r} cannot be kept: it is nested more than 200 deep")


def _no_number(said: str) -> None:
    raise InputError(f"it has a {said}, which JSON does not know")


def _described(entry: Content | Value) -> dict[str, Any]:
    if isinstance(entry, Value):
        return {"value": entry.value}
    layout = entry.layout
    said: dict[str, Any] = {"tensor": entry.digest, "dtype": layout.dtype, "shape": list(layout.shape)}
    if layout.strides is not None:
        said["strides"] = list(layout.strides)
    return said if entry.file == entry.digest else {**said, "in": entry.file}


def _entry(said: Mapping[str, Any]) -> Content | Value:
    if "value" in said:
        return Value(said["value"])
    digest, layout = said["tensor"], checked(said["dtype"], said["shape"], said.get("strides"))
    file = said.get("in", digest)
    for one in (digest, file):
        if not isinstance(one, str) or not _DIGEST.fullmatch(one):
            raise InputError(f"{one!r} is not the name of an object")
    return Content(digest, file, layout)
