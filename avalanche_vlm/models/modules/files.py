"""One module in one file: kilobytes, and nothing in it can be executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from avalanche_vlm.errors import InputError


def write_module(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Write tensors by name, whole or not at all.

    :raises InputError: if the file cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, unfinished)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        if unfinished.is_file():
            unfinished.unlink()
        raise InputError(f"the module cannot be written to {path}: {error}") from error


def read_module(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU.

    :raises InputError: if the file is missing or no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as a module in a safetensors file: {error}") from error
