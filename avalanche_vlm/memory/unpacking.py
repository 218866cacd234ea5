"""Values out of flat entries, as :mod:`avalanche_vlm.memory.packing` made them. Nothing in them is executed."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.packing import MARK, SEQUENCES, VALUES, has_state, is_function, part_of


def unpack(name: str, now: Any, state: Mapping[str, Any], owner: str) -> Any:
    """The value that :func:`~avalanche_vlm.memory.packing.pack` made entries of.

    :param name: what the value is called.
    :param now: what its owner has there at present. Objects with a state, parameters and generators are changed in
        place. A value of another kind is refused, and so is a tensor of another type, number of dimensions or size in
        any but the first of them. None goes for any kind, an empty tensor for any size.
    :param state: entries by name; those of other values are left alone.
    :param owner: class of the object whose value it is, for the errors.
    :return: the value, which shares no memory with the entries.
    :raises InputError: if an entry is missing, damaged or does not fit.

    >>> unpack("seen", None, {"seen": {"$": "set", "items": [1, 3]}}, "a head")
    {1, 3}
    """
    try:
        return _value(name, now, state)
    except _UnfitError as error:
        raise InputError(f"the state given to {owner} {error}") from None


class _UnfitError(Exception):
    """Why an entry cannot be taken, as the end of a sentence."""


def _value(name: str, now: Any, state: Mapping[str, Any]) -> Any:
    if name in state:
        return _read(name, state[name], now, state)
    if is_function(now):
        return now
    parts = [key for key in state if key.startswith(f"{name}.")]
    if has_state(now) or parts:
        return _loaded(name, now, part_of(state, name))
    raise _UnfitError(f"lacks {name!r}")


def _loaded(name: str, now: Any, state: Mapping[str, Any]) -> Any:
    """An object with its state in it."""
    if not has_state(now):
        raise _UnfitError(f"has a state of {name!r}, and there is no object yet that could take it")
    try:
        now.load_state_dict(state)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # torch's of modules and optimizers
        raise _UnfitError(f"does not fit {name!r}: {' '.join(str(error).split())}") from error
    return now


def _read(name: str, note: Any, now: Any, state: Mapping[str, Any]) -> Any:
    """The value of an entry, if it fits in the place of what is there now."""
    kind = note.get(MARK) if isinstance(note, dict) else None
    if kind in ("part", "function"):
        return _value(name, now, {key: entry for key, entry in state.items() if key != name})
    try:
        if isinstance(note, torch.Tensor):
            found: Any = note
        elif kind is None:
            found = copy.deepcopy(note)
        elif kind in ("tensors", "dict") or kind in SEQUENCES:
            found = _container(name, kind, note, now, state)
        elif kind == "nested part":
            return _loaded(name, now, _read(name, note["state"], None, state))
        else:
            found = _leaf(name, kind, note, now, state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _UnfitError(
            f"has a damaged {name!r}: {(str(error).splitlines() or ['nothing can be read'])[0]}"
        ) from error
    return _fitting(name, found, now)


def _container(name: str, kind: str, note: Mapping[str, Any], now: Any, state: Mapping[str, Any]) -> Any:
    if kind == "tensors" or kind == "dict":
        present = now if isinstance(now, Mapping) else {}
        if kind == "tensors":
            names = note["names"]
            found = {
                key: _read(f"{name}.{key}", _entry(f"{name}.{key}", state), present.get(key), state) for key in names
            }
        else:
            found = {}
            for i, (key_note, entry) in enumerate(note["items"]):
                key = _read(f"{name}.{i}.key", key_note, None, state)
                found[key] = _read(f"{name}.{i}", entry, present.get(key), state)
        return found
    there = list(now) if isinstance(now, (list, tuple, deque)) else []
    there += [None] * max(0, len(note["items"]) - len(there))
    entries = [_read(f"{name}.{i}", entry, there[i], state) for i, entry in enumerate(note["items"])]
    return deque(entries, note["maxlen"]) if kind == "deque" else SEQUENCES[kind](entries)


def _leaf(name: str, kind: str, note: Mapping[str, Any], now: Any, state: Mapping[str, Any]) -> Any:
    """A value without others in it."""
    if kind == "tensor":
        return _entry(name, state)
    if kind == "float":
        return float(note["value"])
    if kind == "integer":
        return int(note["value"], 16)
    if kind == "number":
        return np.dtype(note["dtype"]).type(note["value"])
    if kind == "numpy generator":
        found = _read(f"{name}.{VALUES}", note["state"], None, state)  # some kinds have arrays in it
        made = now if isinstance(now, np.random.Generator) else _numpy_generator(found["bit_generator"])
        made.bit_generator.state = found
        return made
    if kind not in ("generator", "bytes", "array"):
        raise ValueError(f"nothing is known of {kind!r}")
    values = _entry(f"{name}.{VALUES}", state)
    if kind == "generator":
        generator = now if isinstance(now, torch.Generator) else torch.Generator(note["device"])
        return generator.set_state(values.cpu())
    if kind == "bytes":
        return values.cpu().numpy().tobytes()
    dtype = np.dtype(note["dtype"]) if isinstance(note["dtype"], str) else _structured(note["dtype"])
    array = values.cpu().numpy()
    array = array.copy() if array.dtype == dtype else np.frombuffer(array.tobytes(), dtype).copy()
    return array.reshape(note["shape"])


def _entry(name: str, state: Mapping[str, Any]) -> torch.Tensor:
    if not isinstance(state.get(name), torch.Tensor):
        raise ValueError(f"there is no tensor {name!r}")
    return state[name]


def _structured(fields: list[Any]) -> np.dtype:
    return np.dtype([(name, kind, tuple(shape)) if shape else (name, kind) for name, kind, shape in fields])


def _numpy_generator(name: str) -> np.random.Generator:
    if name not in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"):
        raise ValueError(f"there is no random generator {name!r}")
    return np.random.Generator(getattr(np.random, name)())


def _fitting(name: str, found: Any, now: Any) -> Any:
    """A value in the place of what is there now, of which it keeps what is not state: the device, the identity of
    parameters, the class of a mapping or of a named tuple."""
    if found is None or found is now:
        return found
    if now is not None and _kind(found) != _kind(now):
        raise _UnfitError(f"has a {_kind(found)} as {name!r}, not a {_kind(now)}")
    if isinstance(found, torch.Tensor):
        return _tensor(name, found, now)
    if isinstance(found, np.ndarray) and now is not None:
        _check_shape(name, found, now)
    if isinstance(now, MutableMapping) and type(now) is not dict:
        same = copy.copy(now)  # a default dictionary's factory, for example
        same.clear()
        same.update(found)
        return same
    if isinstance(now, tuple) and hasattr(now, "_fields"):
        return type(now)(*found)
    return found


def _tensor(name: str, found: torch.Tensor, now: torch.Tensor | None) -> torch.Tensor:
    if now is None:
        return found.detach().clone()
    _check_shape(name, found, now)
    if isinstance(now, nn.Parameter):
        if found.shape == now.shape:
            with torch.no_grad():
                return now.copy_(found)  # an optimizer may have it
        return nn.Parameter(found.detach().to(now.device, copy=True), now.requires_grad)
    return found.detach().to(now.device, copy=True).requires_grad_(now.requires_grad)


def _check_shape(name: str, found: Any, now: Any) -> None:
    if found.dtype != now.dtype:
        raise _UnfitError(f"has {found.dtype} as {name!r}, not {now.dtype}")
    fits = found.ndim == now.ndim and found.shape[1:] == now.shape[1:]
    if not fits and 0 not in (*found.shape, *now.shape):
        raise _UnfitError(f"has the shape {list(found.shape)} as {name!r}, not {list(now.shape)}")


def _kind(value: Any) -> str:
    """The kind of a value, in words: whole and other numbers are one, their tensors and arrays are others."""
    if isinstance(value, (bool, np.bool_)):
        return "truth value"
    if isinstance(value, (int, float, np.number)):
        return "number"
    for kind, called in (
        (torch.Tensor, "tensor"),
        (np.ndarray, "array"),
        (str, "text"),
        (Mapping, "mapping"),
    ):
        if isinstance(value, kind):
            return called
    return type(value).__name__ if not isinstance(value, tuple) else "tuple"
