"""Write a state to disk so that a state is there at every moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import manifests
from avalanche_vlm.storage.durable import reason, sweep, sync_folder
from avalanche_vlm.storage.locks import Lock
from avalanche_vlm.storage.manifests import (
    Content,
    Manifest,
    OtherFormatError,
    OutOfReachError,
    Value,
    listed,
    manifest_path,
    read_manifest,
    write_manifest,
)
from avalanche_vlm.storage.objects import put, remove_others
from avalanche_vlm.storage.tensor_files import Stamp, stamp_of

SAVING = ".saving.lock"
PATIENCE = 60.0
"""Seconds to wait for another process that writes to the same folder."""


class _Known(NamedTuple):
    """What has to be known of a state that is there before another one is written beside it."""

    name: str
    kind: str
    serial: int
    files: frozenset[str]


_KNOWN: dict[Path, tuple[Stamp, _Known]] = {}
"""Manifests that this process wrote or read, with what the system said of their files then."""


def save_state(
    folder: str | Path,
    state: Mapping[str, Any],
    *,
    name: str,
    kind: str,
    about: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Write a state. Until all of it is on the disk the states before are there, whatever happens; afterwards the last
    ``keep`` of its kind stay. A tensor whose content is there already is not written again.

    :param folder: folder of states, made if it is not there.
    :param state: tensors, on any device, and JSON values by name; any text is a name.
    :param name: what the state is called; one of the same name is replaced.
    :param kind: what kind of state it is, which whoever loads it has to know.
    :param about: JSON values that can be read without the state; None for none.
    :param keep: number of states of this kind that are there afterwards at most, at least 1.
    :return: the file that describes the state.
    :raises InputError: if it cannot be written, naming the file; what was there before is then untouched.
    :raises TypeError: if an entry is neither a tensor that a file can hold nor a JSON value.
    """
    path, _ = written_state(Path(folder), state, name=name, kind=kind, about=about, keep=keep)
    return path


def written_state(
    folder: Path,
    state: Mapping[str, Any],
    *,
    name: str,
    kind: str,
    about: Mapping[str, Any] | None,
    keep: int,
    before: Mapping[str, Content] | None = None,
    unsynced: list[Path] | None = None,
) -> tuple[Path, dict[str, Content]]:
    """What :func:`save_state` does, for whoever saves often.

    :param folder: folder of states.
    :param state: tensors and JSON values by name.
    :param name: what the state is called.
    :param kind: what kind of state it is.
    :param about: JSON values that can be read without the state.
    :param keep: number of states of this kind that are there afterwards, where the disk is waited for.
    :param before: contents that this function gave, of tensors by name, for those that may not have changed since.
    :param unsynced: gets the files and folders that are not on the disk yet; until they are no older state is to be
        removed. None to wait for the disk.
    :return: the file that describes the state, and the contents of its tensors by name.
    :raises InputError: if it cannot be written, naming the file.
    :raises TypeError: if an entry is neither a tensor that a file can hold nor a JSON value.
    """
    path = manifest_path(folder, name)
    if keep < 1:
        raise InputError(f"the last state or more are kept in {folder}, not {keep}")
    about = {} if about is None else dict(about)
    manifests.check_value("about", about)
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    for key, value in state.items():
        if not isinstance(key, str):
            raise TypeError(f"{key!r} cannot be kept: a state has texts as names")
        if key not in tensors:
            manifests.check_value(key, value)
    with Lock(folder, name=SAVING).acquire(PATIENCE):
        try:
            objects = folder / manifests.OBJECTS
            objects.mkdir(exist_ok=True)
            sweep(folder)
            sweep(objects)
            contents = put(folder, tensors, before, unsynced)
            if unsynced is None:
                sync_folder(objects)
            entries = {key: contents.get(key, Value(value)) for key, value in state.items()}
            serial = 1 + max((known.serial for known in _whole(folder)), default=0)
            manifest = Manifest(name, kind, serial, about, entries)
            write_manifest(folder, manifest, sync=unsynced is None)
            _KNOWN[path.absolute()] = stamp_of(os.stat(path)), _known_of(manifest)
        except BaseException as error:
            _tidy(folder)
            if isinstance(error, OSError):
                where = error.filename or path
                raise InputError(f"cannot write the state {name!r} to {where}: {reason(error)}") from error
            raise
        if unsynced is None:
            _tidy(folder, kind, keep)
        else:
            unsynced += [objects, path, folder]
    return path, contents


def remove_older(folder: Path, kind: str, keep: int, wait: float = PATIENCE) -> None:
    """Remove all but the last states of a kind, and what no other refers to. What cannot be removed stays.

    :param folder: folder of states.
    :param kind: what kind of states.
    :param keep: number of them that stay; 0 for all of them, so that only what no state refers to is removed.
    :param wait: seconds to wait for whoever else writes to the folder.
    :raises InputError: if another process, or another writer of this one, writes to the folder for so long.
    """
    with Lock(folder, name=SAVING).acquire(wait):
        _tidy(folder, kind, keep)


def _tidy(folder: Path, kind: str | None = None, keep: int = 0) -> None:
    """Remove the oldest states of a kind, and then what no state refers to. What cannot be removed stays, and all does
    where it is not known what a state refers to."""
    with contextlib.suppress(OSError, InputError):
        known = sorted(_whole(folder, strict=True), key=lambda manifest: manifest.serial)
        mine = [manifest for manifest in known if manifest.kind == kind]
        surplus = mine[:-keep] if keep else []
        for manifest in surplus:
            path = manifest_path(folder, manifest.name)
            path.unlink(missing_ok=True)
            _KNOWN.pop(path.absolute(), None)
        if surplus:
            sync_folder(folder)
        remove_others(folder, {file for manifest in known if manifest not in surplus for file in manifest.files})


def _whole(folder: Path, *, strict: bool = False) -> list[_Known]:
    """The states of a folder that are not damaged.

    :raises OtherFormatError: if one is of another format.
    :raises OutOfReachError: if one cannot be read now, where that is not passed over.
    """
    found = []
    for path in listed(folder):
        try:
            found.append(_read(path))
        except InputError as error:
            if isinstance(error, OtherFormatError) or (strict and isinstance(error, OutOfReachError)):
                raise
    return found


def _read(path: Path) -> _Known:
    """What a manifest says, read once as long as the system says that it is the same file."""
    key, stamp = path.absolute(), _stamped(path)
    if stamp is not None and key in _KNOWN and _KNOWN[key][0] == stamp:
        return _KNOWN[key][1]
    known = _known_of(read_manifest(path))
    if stamp is not None and stamp == _stamped(path):
        _KNOWN[key] = stamp, known
    return known


def _stamped(path: Path) -> Stamp | None:
    try:
        return stamp_of(os.stat(path))
    except OSError:  # whoever reads it says why
        return None


def _known_of(manifest: Manifest) -> _Known:
    return _Known(manifest.name, manifest.kind, manifest.serial, frozenset(manifest.files()))
