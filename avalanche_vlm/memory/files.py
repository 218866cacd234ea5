"""Memories on disk: tensors as safetensors, the rest as JSON, and a digest that ties the two together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import sync_folder, written
from avalanche_vlm.storage.json_files import read_json_file, refuse_unreadable
from avalanche_vlm.storage.tensor_files import read_tensors, write_tensors

TENSORS, SETTINGS = "memory.safetensors", "memory.json"
_NEW = "memory.new.safetensors"
"""Tensors whose settings are not written yet, or whose settings are and which have not taken the old ones' place."""
_FORMAT = 3
"""Format 3 may have identities of eight bytes, which format 2 does not know."""
_READ = (2, 3)


def save_memory(folder: str | Path, kind: str, tensors: Mapping[str, torch.Tensor], settings: dict[str, Any]) -> None:
    """Write a memory, which takes the place of an older one whole or not at all: that its settings are written decides,
    and until then, if the process ends, the older one is read.

    :param folder: made if it is not there.
    :param kind: which class can read it.
    :param tensors: what is kept.
    :param settings: plain JSON types.
    :raises InputError: if the files cannot be written, or could not be read again; the older memory or, where its
        settings were written, the new one is then read.
    """
    folder = Path(folder)
    try:
        _end_interrupted(folder)
        write_tensors(folder / _NEW, tensors)
        digest = _digest(folder / _NEW, kind, settings, _FORMAT)
        description = {"format": _FORMAT, "kind": kind, "sha256": digest, "settings": settings}
        text = (json.dumps(description, indent=1, allow_nan=False) + "\n").encode()
        try:
            refuse_unreadable(text, folder / SETTINGS)
            with written(folder / SETTINGS, sync_name=False) as file:
                file.write(text)
        except (OSError, InputError):
            (folder / _NEW).unlink(missing_ok=True)  # the old settings stand, and these tensors are none of theirs
            raise
        _give_place(folder)
        sync_folder(folder)
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
    there = [file for file in (tensor_path, folder / _NEW) if file.is_file()]
    if missing := [file.name for file in (path, *(() if there else (tensor_path,))) if not file.is_file()]:
        raise InputError(f"there is no memory in {folder}: {missing[0]} is missing")
    found, digest, settings, version = _described(folder)
    if version not in _READ:
        known = " and ".join(map(str, _READ))
        raise InputError(f"{path} has format {version!r}; this version reads formats {known}")
    if found != kind:
        raise InputError(f"{folder} holds a memory of kind {found!r}, not {kind!r}")
    try:
        same = next((file for file in there if _digest(file, kind, settings, version) == digest), None)
    except OSError as error:
        raise InputError(f"cannot read the memory in {folder}: {error.strerror or error}") from error
    if same is None:
        raise InputError(f"{tensor_path} or {path.name} beside it is truncated or was changed: they do not match")
    return read_tensors(same, mapped=True), settings


def _end_interrupted(folder: Path) -> None:
    """Give tensors their place whose settings a process had written before it ended."""
    if not (folder / _NEW).is_file():
        return
    decided = False
    with contextlib.suppress(InputError, OSError, TypeError):
        kind, digest, settings, version = _described(folder)
        decided = _digest(folder / _NEW, kind, settings, version) == digest
    if decided:  # otherwise they are written over
        _give_place(folder)


def _described(folder: Path) -> tuple[Any, Any, Any, Any]:
    """Kind, digest, settings and format of the memory in a folder, as its settings say them."""
    path = folder / SETTINGS
    description = read_json_file(path)
    try:
        return description["kind"], description["sha256"], description["settings"], description["format"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: it is not the description of a memory") from error


def _give_place(folder: Path) -> None:
    """Have new tensors take the old ones' place, once the disk has the name of the settings that decide for them."""
    sync_folder(folder)
    os.replace(folder / _NEW, folder / TENSORS)


def _digest(tensors: Path, kind: str, settings: dict[str, Any], version: int) -> str:
    """Of the tensors' file and of all that says how to read it."""
    found = hashlib.sha256(json.dumps([version, kind, settings], sort_keys=True).encode() + b"\0")
    with tensors.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()
