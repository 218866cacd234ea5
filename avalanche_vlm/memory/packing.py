"""Values of many kinds as flat entries: names to tensors and JSON values.

A tensor and a plain JSON value are entries as they are. Anything else has an entry that JSON can hold and that says how
to put it together again, a *note* such as ``{"$": "tuple", "items": [1, 2]}``; its tensors are entries of their own,
whose names follow from where they are. :mod:`avalanche_vlm.memory.unpacking` reads them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

import numpy as np
import torch

from avalanche_vlm.storage.json_files import LARGEST

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A value that JSON has."""

StateDict = dict[str, torch.Tensor | Json]
"""A flat mapping of names to tensors and JSON values. A part's entries have its attribute's name and a dot before
their own, as in torch's state dicts."""

MARK = "$"
"""Key under which a note says what kind of value it stands for."""
VALUES = "values"
"""Last part of the name of the one tensor that an array, bytes or a generator has."""
SEQUENCES: dict[str, type] = {"tuple": tuple, "list": list, "deque": deque, "set": set, "frozenset": frozenset}
"""Containers by the kind that their notes name."""


@runtime_checkable
class HasState(Protocol):
    """Anything that gives and takes its state by torch's pair of methods."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state as a mapping of names to tensors and JSON values."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Take a state that :meth:`state_dict` of an object made in the same way gave."""
        ...


def has_state(value: Any) -> TypeGuard[HasState]:
    """Whether a value gives and takes its state by itself. A class does not, only what is made of it.

    :param value: anything at all, of any type.
    """
    return isinstance(value, HasState) and not isinstance(value, type)


def is_function(value: Any) -> bool:
    """Whether a value is something to call without a state of its own.

    :param value: anything at all, of any type.
    """
    return callable(value) and not isinstance(value, type) and not has_state(value)


def is_json(value: Any) -> bool:
    """Whether JSON holds a value and gives back the same: no tuples, no NaN, no whole numbers beyond 64 bits, no keys
    but strings, no notes.

    :param value: anything at all, of any type.

    >>> is_json({"a": [1, None]}), is_json((1, 2)), is_json(float("nan")), is_json({1: 2})
    (True, False, False, False)
    >>> is_json(2**64 - 1), is_json(2**64)
    (True, False)
    """
    if type(value) is list:
        return all(map(is_json, value))
    if type(value) is dict:
        return MARK not in value and all(type(key) is str and is_json(entry) for key, entry in value.items())
    if type(value) is int:
        return abs(value) < LARGEST
    return value is None or type(value) in (bool, str) or (type(value) is float and math.isfinite(value))


def pack(name: str, value: Any) -> StateDict:
    """The entries of one value.

    :param name: what the value is called; every entry's name begins with it.
    :param value: a tensor, a numpy array or number, a random generator of torch's or numpy's, bytes, a JSON value, an
        object with a state, None, or a container of these: list, tuple, deque, set or mapping. A function has no state
        and gives no entry.
    :return: flat mapping; its tensors are detached and share their memory with the value where they can.
    :raises TypeError: if the value, or something in it, is none of these.

    >>> pack("seen", {3, 1}), pack("rate", 0.5)
    ({'seen': {'$': 'set', 'items': [1, 3]}}, {'rate': 0.5})
    >>> sorted(pack("means", [torch.zeros(2), None]))
    ['means', 'means.0']
    """
    if isinstance(value, torch.Tensor):
        return {name: value.detach()}
    state: StateDict = {}
    note = _note(name, value, state)
    if isinstance(note, dict) and note.get(MARK) in ("part", "function"):
        return state  # whoever takes them has the object already
    return {name: note, **state}


def part_of(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entries of a part, under its own names.

    :param state: entries by name.
    :param name: the part's name.

    >>> part_of({"memory.draws": 3, "step": 1}, "memory")
    {'draws': 3}
    """
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _note(name: str, value: Any, state: StateDict) -> Json:
    """The entry that says how to put a value together again; its tensors go into ``state``."""
    if is_json(value):
        return cast("Json", value)
    if isinstance(value, torch.Tensor):
        state[name] = value.detach()
        return {MARK: "tensor"}
    if isinstance(value, np.generic):
        return {MARK: "number", "dtype": value.dtype.str, "value": _plain_number(name, value)}
    if type(value) is float:
        return {MARK: "float", "value": str(value)}
    if type(value) is int:  # as generators of numpy's have
        return {MARK: "integer", "value": hex(value)}
    if has_state(value):
        return _part(name, value, state)
    if isinstance(value, Mapping):
        return _mapping(name, value, state)
    if isinstance(value, tuple(SEQUENCES.values())):
        kind = next(kind for kind, container in SEQUENCES.items() if isinstance(value, container))
        entries = _in_order(value) if isinstance(value, (set, frozenset)) else list(cast("Iterable[Any]", value))
        note: dict[str, Json] = {MARK: kind}
        note["items"] = [_note(f"{name}.{i}", entry, state) for i, entry in enumerate(entries)]
        return note | ({"maxlen": value.maxlen} if isinstance(value, deque) else {})
    if isinstance(value, np.random.Generator):
        return {MARK: "numpy generator", "state": _note(f"{name}.{VALUES}", dict(value.bit_generator.state), state)}
    if is_function(value):
        return {MARK: "function"}
    return _one_tensor(f"{name}.{VALUES}", value, state)


def _one_tensor(name: str, value: Any, state: StateDict) -> Json:
    if isinstance(value, torch.Generator):
        state[name] = value.get_state()
        return {MARK: "generator", "device": str(value.device)}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        state[name] = _tensor(value)
        return {MARK: "array", "dtype": _described(value.dtype), "shape": list(value.shape)}
    if isinstance(value, bytes):
        state[name] = _tensor(np.frombuffer(value, dtype=np.uint8))
        return {MARK: "bytes"}
    raise TypeError(f"{name.removesuffix(f'.{VALUES}')} is declared as state, but a {type(value).__name__} is none")


def _part(name: str, value: HasState, state: StateDict) -> Json:
    entries = value.state_dict()
    if all(isinstance(entry, torch.Tensor) or _is_entry(entry) for entry in entries.values()):
        state |= {f"{name}.{key}": entry for key, entry in entries.items()}
        return {MARK: "part"}
    return {MARK: "nested part", "state": _note(name, dict(entries), state)}  # an optimizer's, for example


def _is_entry(value: Any) -> bool:
    """Whether it is JSON, notes included: what a part's own :func:`pack` made."""
    if type(value) is list:
        return all(map(_is_entry, value))
    if type(value) is dict:
        return all(type(key) is str and _is_entry(entry) for key, entry in value.items())
    return is_json(value)


def _mapping(name: str, value: Mapping[Any, Any], state: StateDict) -> Json:
    if all(type(key) is str and isinstance(entry, torch.Tensor) for key, entry in value.items()):
        state |= {f"{name}.{key}": entry.detach() for key, entry in value.items()}
        return {MARK: "tensors", "names": list(value)}
    items: list[Json] = []
    for i, (key, entry) in enumerate(value.items()):
        if not isinstance(key, (bool, int, float, str, tuple, frozenset, np.generic, type(None))):
            raise TypeError(f"{name} is declared as state, but a {type(key).__name__} as a key is none")
        items.append([_note(f"{name}.{i}.key", key, state), _note(f"{name}.{i}", entry, state)])
    return {MARK: "dict", "items": items}


def _in_order(values: set[Any] | frozenset[Any]) -> list[Any]:
    """A set's elements, in an order that does not depend on hashes where they have one."""
    try:
        return sorted(values)
    except TypeError:
        return list(values)


def _plain_number(name: str, value: np.generic) -> Json:
    plain = value.item()
    if isinstance(plain, float) and not math.isfinite(plain):
        return str(plain)
    if not is_json(plain) or plain is None:
        raise TypeError(f"{name} is declared as state, but a {type(value).__name__} is none")
    return cast("Json", plain)


_TORCH_HAS = {np.dtype(kind) for kind in ("?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")}


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A view of an array where torch takes it, otherwise its bytes."""
    if array.dtype in _TORCH_HAS and array.flags.writeable and all(stride >= 0 for stride in array.strides):
        return torch.from_numpy(array)
    plain = np.array(array, order="C")
    return torch.from_numpy(plain if array.dtype in _TORCH_HAS else plain.reshape(-1).view(np.uint8))


def _described(dtype: np.dtype) -> Json:
    """An array's type for JSON: its short name, or of a structured one name, type and shape of every field."""
    if dtype.names is None:
        return dtype.str
    fields = [(name, dtype[name]) for name in dtype.names]
    return [[name, field.base.str, list(field.shape)] for name, field in fields]
