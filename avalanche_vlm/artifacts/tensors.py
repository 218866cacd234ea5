"""Tensors of a model that are not those of its base, in files, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.layout import CODES, checked, empty, layout_of


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same to the last bit, type and shape included: NaN is NaN here, and 0 is not -0.

    :param a: any tensor, on any device.
    :param b: any tensor, on any device.

    >>> zero, missing = torch.zeros(1), torch.full((1,), float("nan"))
    >>> same_bits(missing, missing.clone()), same_bits(zero, -zero)
    (True, False)
    """
    if a is b:
        return True
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(_bytes(a), _bytes(b.to(a.device)))


def tensors_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The entries of a state that are tensors.

    :param state: entries by name.
    """
    return {name: entry for name, entry in state.items() if isinstance(entry, torch.Tensor)}


def changed_tensors(state: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a state that are not bit for bit those of the same name in another.

    :param state: the model's entries.
    :param base: the base's entries.
    """
    there = tensors_of(base)
    return {
        name: tensor
        for name, tensor in tensors_of(state).items()
        if name not in there or not same_bits(tensor, there[name])
    }


def strides_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, list[int]]:
    """Strides of the tensors whose elements do not lie in the order of their dimensions: what is computed of them may
    differ in its last bits where they do.

    :param tensors: tensors by name.
    """
    layouts = ((name, layout_of(name, tensor)) for name, tensor in tensors.items())
    return {name: list(layout.strides) for name, layout in layouts if layout.strides is not None}


def laid_out(name: str, tensor: torch.Tensor, strides: Mapping[str, list[int]]) -> torch.Tensor:
    """A tensor with the strides that it had.

    :param name: the tensor's name.
    :param tensor: the tensor as a file gives it.
    :param strides: what :func:`strides_of` gave.
    :raises InputError: for strides that are none of the tensor's.
    """
    if name not in strides:
        return tensor
    try:
        return empty(checked(CODES[tensor.dtype], list(tensor.shape), strides[name])).copy_(tensor)
    except InputError as error:
        raise InputError(f"the strides of {name} are damaged: {error}") from error


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
