"""Files of tensors that say what they hold: one that was cut or changed is told, and so is one of other shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.layout import layout_of, raw
from avalanche_vlm.storage.objects import content_digest
from avalanche_vlm.storage.tensor_files import TensorFile, write_tensors

SEAL = "sha256"
"""Where the metadata of a file have the digest of its tensors."""


def write_sealed(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors with a digest of them.

    :param path: the file that is replaced when all is written.
    :param tensors: tensors by name.
    :raises InputError: if it cannot be written.
    """
    write_tensors(path, tensors, {SEAL: seal_of_tensors(tensors)})


def read_sealed(path: Path) -> dict[str, torch.Tensor]:
    """What :func:`write_sealed` wrote.

    :param path: path of the file that is read.
    :raises InputError: if it is missing, truncated or was changed.
    """
    with TensorFile(path) as file:
        tensors = {name: file.tensor(name) for name in file.places}
        if file.metadata.get(SEAL) != seal_of_tensors(tensors):
            raise InputError(f"{path} was changed since it was written: its digest is another")
    return tensors


def refuse_not_finite(path: str | Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse numbers that are none.

    :param path: where the tensors are from, for the error.
    :param tensors: tensors by name, of any type.
    :raises InputError: naming the first tensor that has a NaN or an infinity.
    """
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path} is damaged: {name} has numbers that are NaN or infinite")


def seal_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """The digest that seals a file: SHA-256 of names, layouts and values, in hexadecimal.

    :param tensors: tensors by name.
    """
    found = hashlib.sha256()
    for name in sorted(tensors):
        layout = layout_of(name, tensors[name].contiguous())
        found.update(f"{name}\0{content_digest(layout, [raw(tensors[name].contiguous(), layout)])}\0".encode())
    return found.hexdigest()
