"""Memories on disk: tensors as safetensors, the rest as JSON, and a digest that ties the two together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import written
from avalanche_vlm.storage.tensor_files import read_tensors, write_tensors

TENSORS, SETTINGS = "memory.safetensors", "memory.json"
_FORMAT = 3
"""Format 3 may have identities of eight bytes, which format 2 does not know."""
_READ = (2, 3)


def save_memory(folder: str | Path, kind: str, tensors: Mapping[str, torch.Tensor], settings: dict[str, Any]) -> None:
    """Write a memory; each file is replaced whole or not at all.

    :param folder: made if it is not there.
    :param kind: which class can read it.
    :param tensors: what is kept.
    :param settings: plain JSON types.
    :raises InputError: if the files cannot be written.
    """
    folder = Path(folder)
    write_tensors(folder / TENSORS, tensors)
    try:
        digest = _digest(folder / TENSORS, kind, settings, _FORMAT)
        description = {"format": _FORMAT, "kind": kind, "sha256": digest, "settings": settings}
        with written(folder / SETTINGS) as file:
            file.write((json.dumps(description, indent=1, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise InputError(f"cannot write the memory to {folder}: {error.strerror or error}") from error


def load_memory(folder: str | Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what :func:`save_memory` wrote.

    :return: the tensors, which stay on the disk until they are looked at, for whoever copies them; and the settings.
    :raises InputError: if a file is missing, truncated or changed, or holds a memory of another kind. Nothing in the
        files is ever executed: neither format can hold code.
    """
    folder = Path(folder)
    path, tensor_path = folder / SETTINGS, folder / TENSORS
    for file in (path, tensor_path):
        if not file.is_file():
            raise InputError(f"there is no memory in {folder}: {file.name} is missing")
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"cannot read the memory in {folder}: {error.strerror or error}") from error
    except ValueError as error:  # not text
        raise InputError(f"{path} is damaged: it is not the description of a memory") from error
    try:
        description = json.loads(text)
        found, digest, settings = description["kind"], description["sha256"], description["settings"]
        version = description["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not the description of a memory") from error
    if version not in _READ:
        known = " and ".join(map(str, _READ))
        raise InputError(f"{path} has format {version!r}; this version reads formats {known}")
    if found != kind:
        raise InputError(f"{folder} holds a memory of kind {found!r}, not {kind!r}")
    try:
        same = _digest(tensor_path, kind, settings, version) == digest
    except OSError as error:
        raise InputError(f"cannot read the memory in {folder}: {error.strerror or error}") from error
    if not same:
        raise InputError(f"{tensor_path} or {path.name} beside it is truncated or was changed: they do not match")
    return read_tensors(tensor_path, mapped=True), settings


def _digest(tensors: Path, kind: str, settings: dict[str, Any], version: int) -> str:
    """Of the tensors' file and of all that says how to read it."""
    found = hashlib.sha256(json.dumps([version, kind, settings], sort_keys=True).encode() + b"\0")
    with tensors.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()
