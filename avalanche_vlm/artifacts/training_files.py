"""The state of a training beside its model: what ``update`` goes on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm._content import digest
from avalanche_vlm.artifacts.tensors import tensors_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.packing import StateDict
from avalanche_vlm.memory.settings import tensor_content
from avalanche_vlm.models import VLM
from avalanche_vlm.storage import load_state, save_state
from avalanche_vlm.training.state import training_state

TRAINING = "training"
"""Name of the state in the version's folder: ``training.json``, and its tensors beside it."""

_KIND = "a training between two experiences"
_SMALL = 1024
"""Bytes of a tensor below which it is written, though the model or its base has the same."""


def write_training(folder: Path, model: VLM, plugins: Sequence[SupervisedPlugin], base: Mapping[str, Any]) -> None:
    """Write the state of plugins and random generators. A tensor that model or base has already is referred to.

    :param folder: the version's folder.
    :param model: the model that is saved.
    :param plugins: the recipe's plugins.
    :param base: entries of the base's state.
    :raises InputError: if a plugin does not declare its state, or nothing can be written.
    """
    state = training_state(model, plugins)
    whole = {name: entry for name, entry in state.items() if not name.startswith("model.")}
    large = {name: tensor for name, tensor in tensors_of(whole).items() if tensor.nbytes >= _SMALL}
    forms = {(tensor.dtype, tensor.shape) for tensor in large.values()}  # others cannot be the same, and are not read
    known: dict[Any, str] = {}
    for where, entries in (("base", base), ("model", model.state_dict())):
        alike = {name: t for name, t in tensors_of(entries).items() if (t.dtype, t.shape) in forms}
        known |= {_name_of(tensor): f"{where}.{name}" for name, tensor in alike.items()}
    same = {name: known[key] for name, tensor in large.items() if (key := _name_of(tensor)) in known}
    kept = {name: entry for name, entry in whole.items() if name not in same}
    save_state(folder, kept, name=TRAINING, kind=_KIND, about={"same": same})
    for lock in folder.glob(".*"):  # nobody else writes here
        lock.unlink()


def read_training(folder: Path, model: Mapping[str, Any], base: Mapping[str, Any]) -> StateDict:
    """What :func:`write_training` wrote, with the model's own entries.

    :param folder: the version's folder.
    :param model: entries of the saved model's state.
    :param base: entries of the base's state, by the names that they have there.
    :return: a state as :func:`~avalanche_vlm.training.state.load_training_state` takes it.
    :raises InputError: if the model was saved without it, or a file is missing, damaged or changed.
    """
    if not (folder / f"{TRAINING}.json").is_file():
        raise InputError(
            f"{folder} was saved without the state of its training: it predicts, and cannot go on learning"
        )
    stored = load_state(folder, name=TRAINING, kind=_KIND)
    state: StateDict = {f"model.{name}": entry for name, entry in model.items()} | dict(stored.state)
    for name, source in dict(stored.about.get("same", {})).items():
        where, _, entry = str(source).partition(".")
        found = {"model": model, "base": base}.get(where, {}).get(entry)
        if not isinstance(found, torch.Tensor):
            raise InputError(f"{folder / TRAINING}.json refers to {source}, which is not there")
        # The base becomes the model, whose weights are written before the plugins read what they kept of the base.
        state[name] = found.clone() if where == "base" else found
    return state


def _name_of(tensor: torch.Tensor) -> str:
    return digest([tensor_content(tensor)])
