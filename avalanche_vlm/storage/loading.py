"""Read a state from disk, every byte verified, or say in one sentence why that cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.manifests import (
    Content,
    Manifest,
    OtherFormatError,
    Value,
    listed,
    manifest_path,
    read_manifest,
)
from avalanche_vlm.storage.objects import get


@dataclass(frozen=True)
class Stored:
    """A state that was read.

    :param name: what it is called.
    :param state: tensors on the CPU, in the memory layout that they had, and JSON values by name.
    :param about: JSON values that its writer said of it.
    :param remarks: sentences on newer states that are damaged and were passed over.
    """

    name: str
    state: dict[str, Any]
    about: dict[str, Any]
    remarks: list[str] = field(default_factory=list)


def load_state(folder: str | Path, *, kind: str, name: str | None = None, mapped: bool = False) -> Stored:
    """Read a state that :func:`~avalanche_vlm.storage.saving.save_state` wrote. Nothing in the files is executed.

    :param folder: folder of states.
    :param kind: what kind of state is wanted.
    :param name: what it is called; None for the newest one that is undamaged.
    :param mapped: whether big tensors stay on the disk until they are looked at, for callers that copy them; the files
        are then to be left alone for as long as the tensors live. States that are saved later do that.
    :return: the state, with what its writer said of it.
    :raises InputError: if there is none, or it is damaged, of another kind or of another format.
    """
    folder = Path(folder)
    if name is not None:
        manifest = read_manifest(manifest_path(folder, name))
        _check_kind(folder, manifest, kind)
        return Stored(manifest.name, _read(folder, manifest, mapped), manifest.about)
    while True:
        there = _times(folder)
        try:
            found = _newest(folder, kind, mapped)
        except InputError:
            if _times(folder) == there:
                raise
            continue
        if not found.remarks or _times(folder) == there:
            return found
        # What was missing may have been removed by another process, which wrote a newer state meanwhile.


def state_names(folder: str | Path, *, kind: str) -> list[str]:
    """The states of a kind that a folder has, by their descriptions; whether their tensors are whole is not looked at.

    :param folder: folder of states, which need not be there.
    :param kind: what kind of state is wanted.
    :return: names from the oldest to the newest.
    :raises InputError: if the folder cannot be read, or has states of another format.
    """
    return [manifest.name for manifest in _described(Path(folder), kind)[0]]


def _newest(folder: Path, kind: str, mapped: bool) -> Stored:
    known, others, troubles = _described(folder, kind)
    for manifest in reversed(known):
        try:
            state = _read(folder, manifest, mapped)
        except InputError as error:
            troubles.append((_time(manifest_path(folder, manifest.name)), f"{error}"))
            continue
        time = _time(manifest_path(folder, manifest.name))
        remarks = [
            f"{trouble}: the state {manifest.name!r} before it is used" for when, trouble in troubles if when >= time
        ]
        return Stored(manifest.name, state, manifest.about, remarks)
    if others and not troubles:
        _check_kind(folder, others[-1], kind)
    if troubles:
        raise InputError(f"no state in {folder} can be read: {'; '.join(trouble for _, trouble in troubles)}")
    raise InputError(f"there is no state of the kind {kind!r} in {folder}")


def _described(folder: Path, kind: str) -> tuple[list[Manifest], list[Manifest], list[tuple[int, str]]]:
    """The states of a kind from the oldest to the newest, those of other kinds, and what is wrong with those that
    cannot be read, with the times of their files."""
    known: list[Manifest] = []
    others: list[Manifest] = []
    troubles: list[tuple[int, str]] = []
    for path in listed(folder):
        time = _time(path)
        try:
            manifest = read_manifest(path)
        except OtherFormatError:
            raise
        except InputError as error:
            troubles.append((time, str(error)))
            continue
        (known if manifest.kind == kind else others).append(manifest)
    return sorted(known, key=lambda manifest: manifest.serial), others, troubles


def _read(folder: Path, manifest: Manifest, mapped: bool) -> dict[str, Any]:
    files: dict[str, dict[str, Content]] = {}
    for name, entry in manifest.entries.items():
        if isinstance(entry, Content):
            files.setdefault(entry.file, {})[name] = entry
    tensors: dict[str, torch.Tensor] = {}
    for file, wanted in files.items():
        tensors |= get(folder, file, wanted, mapped=mapped)
    return {
        name: entry.value if isinstance(entry, Value) else tensors[name] for name, entry in manifest.entries.items()
    }


def _check_kind(folder: Path, manifest: Manifest, kind: str) -> None:
    if manifest.kind != kind:
        path = manifest_path(folder, manifest.name)
        raise InputError(f"{path} is a state of the kind {manifest.kind!r}, not {kind!r}")


def _times(folder: Path) -> list[tuple[Path, int]]:
    return [(path, _time(path)) for path in listed(folder)]


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
