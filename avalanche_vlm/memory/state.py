"""State: what changes while a stream is trained, declared once and read by everyone.

An object that changes during training says in :attr:`Stateful.states` which of its attributes do, which of these are
still there between tasks, and which of those hold a user's raw data. Checkpoints, saved models, byte accounts and the
question whether raw data is kept all read that one declaration; nothing is found by walking objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, Stores, tensor_bytes

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A value that JSON has."""

StateDict = dict[str, torch.Tensor | Json]
"""A flat mapping of names to tensors and JSON values. A part's entries have its attribute's name and a dot before
their own, as in torch's state dicts."""


@dataclass(frozen=True)
class Declared:
    """What an attribute that changes is declared as.

    :param kept: it is there between tasks, and its bytes count as stored.
    :param raw: it holds samples of the user's (pictures, captions) from which they can be had again.
    :param saved: it goes into :meth:`Stateful.state_dict`. False for what is given again when the object is made anew
        (a resource), and for what another object's state already has (modules inside the model).
    """

    kept: bool = False
    raw: bool = False
    saved: bool = True


WORKING = Declared()
"""Needed to go on within a task or with the next one, but too small to count, or gone when the task is over."""
KEPT = Declared(kept=True)
"""Kept between tasks."""
RAW = Declared(kept=True, raw=True)
"""Samples of the user's, kept between tasks."""
GIVEN = Declared(kept=True, saved=False)
"""Kept between tasks, and given again by whoever makes the object anew: a reference set, for example."""
IN_MODEL = Declared(kept=True, saved=False)
"""Kept between tasks as a part of the model, whose own state dict has it."""


@runtime_checkable
class HasState(Protocol):
    """Anything that gives and takes its state by torch's pair of methods."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state as a flat mapping of names to tensors and JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """Take a state that :meth:`state_dict` of an object made in the same way gave."""
        ...


class Stateful:
    """Base of what has a state outside ``nn.Module``: plugins, memories, teachers, references, losses with a queue.

    A subclass lists in :attr:`states` every attribute that changes while a stream is trained. Declared attributes may
    be tensors, numpy arrays, ``torch.Generator``, JSON values, mappings of strings to tensors, other
    :class:`Stateful` objects, lists or tuples of these, and None. A function in their place has no state.

    Two objects are *made in the same way* if they come from the same constructor calls on equal models; then
    ``new.load_state_dict(old.state_dict())`` makes the new one go on exactly as the old one would have.
    """

    states: ClassVar[Mapping[str, Declared]] = {}
    """Attributes that change, and what each is declared as. Those of base classes count as well."""

    @classmethod
    def declared(cls) -> dict[str, Declared]:
        """The declarations of this class and its bases, by attribute name; a subclass's word goes before its base's."""
        found: dict[str, Declared] = {}
        for kind in reversed(cls.__mro__):
            found |= vars(kind).get("states", {})
        return found

    def state_dict(self) -> StateDict:
        """Everything declared as saved.

        :return: flat mapping of names to tensors (detached, not copied) and JSON values.
        :raises TypeError: if a declared attribute holds something that is no state.
        """
        state: StateDict = {}
        for name, declared in self.declared().items():
            if declared.saved:
                state |= _packed(name, getattr(self, name))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` gave.

        :param state: of an object made in the same way.
        :raises InputError: if it lacks an entry, or has one of another kind.
        """
        for name, declared in self.declared().items():
            if declared.saved:
                setattr(self, name, _unpacked(name, getattr(self, name), state, type(self).__name__))

    def stored(self) -> StoredBytes:
        """Bytes of everything declared as kept."""
        kept = (getattr(self, name) for name, declared in self.declared().items() if declared.kept)
        return sum((_bytes_of(value) for value in kept), StoredBytes())

    def keeps_raw_data(self) -> bool:
        """Whether samples of the user's can be had out of what is kept now."""
        for name, declared in self.declared().items():
            value = getattr(self, name)
            if declared.raw and not _is_empty(value):
                return True
            if declared.kept and any(part.keeps_raw_data() for part in _parts_of(value)):
                return True
        return False

    def may_keep_raw_data(self) -> bool:
        """Whether it is made to keep samples of the user's, empty or not: what is known before training."""
        for name, declared in self.declared().items():
            if declared.raw or any(part.may_keep_raw_data() for part in _parts_of(getattr(self, name))):
                return True
        return False


def stateful_parts(parts: Iterable[Any]) -> Iterator[Stateful]:
    """These objects and all that they declare as theirs, each once; what declares nothing is left out.

    :param parts: plugins, for example.
    """
    seen: set[int] = set()
    waiting = [part for part in parts if isinstance(part, Stateful)]
    while waiting:
        part = waiting.pop(0)
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting += [inner for name in part.declared() for inner in _parts_of(getattr(part, name))]


def keeps_raw_data(parts: Iterable[Any]) -> bool | None:
    """Whether any of these keeps samples of the user's.

    :param parts: plugins, for example.
    :return: True if one is known to; None if none is, but one of them declares nothing, so that nobody knows.
    """
    unknown = False
    for part in parts:
        if not isinstance(part, Stateful):
            unknown = True
        elif part.keeps_raw_data():
            return True
    return None if unknown else False


def _packed(name: str, value: Any) -> StateDict:
    """The entries of one declared attribute."""
    if isinstance(value, torch.Tensor):
        return {name: value.detach()}
    if isinstance(value, torch.Generator):
        return {name: value.get_state()}
    if isinstance(value, np.ndarray):
        return {name: torch.from_numpy(value)}
    if isinstance(value, HasState):
        return {f"{name}.{key}": entry for key, entry in value.state_dict().items()}
    if isinstance(value, Mapping) and value and all(isinstance(entry, torch.Tensor) for entry in value.values()):
        tensors = {f"{name}.{key}": tensor.detach() for key, tensor in value.items()}
        return {name: {"tensors": list(value)}, **tensors}
    if isinstance(value, (list, tuple)) and any(not _is_json(entry) for entry in value):
        entries = [_packed(f"{name}.{i}", entry) for i, entry in enumerate(value)]
        return {key: found for entry in entries for key, found in entry.items()}
    if _is_json(value):
        return {name: cast("Json", list(value) if isinstance(value, tuple) else value)}
    if callable(value):
        return {}
    raise TypeError(f"{name} is declared as state, but a {type(value).__name__} is none")


def _unpacked(name: str, now: Any, state: Mapping[str, Any], owner: str) -> Any:
    """The value of one declared attribute, in the place of what it is now."""
    if isinstance(now, HasState):
        now.load_state_dict(part_of(state, name))
        return now
    if isinstance(now, (list, tuple)) and any(not _is_json(entry) for entry in now):
        return type(now)(_unpacked(f"{name}.{i}", entry, state, owner) for i, entry in enumerate(now))
    if callable(now):
        return now
    if name not in state:
        raise InputError(f"a state of {owner} needs {name!r}, and the one given has none")
    found = state[name]
    if isinstance(now, torch.Generator):
        now.set_state(found.cpu())
        return now
    if isinstance(found, Mapping) and set(found) == {"tensors"}:
        return {key: state[f"{name}.{key}"].clone() for key in found["tensors"]}
    if isinstance(now, np.ndarray):
        return found.cpu().numpy().copy()
    if isinstance(found, torch.Tensor):
        return found.to(now.device).clone() if isinstance(now, torch.Tensor) else found.clone()
    return tuple(found) if isinstance(now, tuple) else found


def part_of(state: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The entries of a part, under its own names.

    >>> part_of({"memory.draws": 3, "step": 1}, "memory")
    {'draws': 3}
    """
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_json(entry) for entry in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(entry) for key, entry in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def _parts_of(value: Any) -> Iterator[Stateful]:
    """The stateful objects that a declared attribute holds directly."""
    if isinstance(value, Stateful):
        yield value
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _parts_of(entry)


def _bytes_of(value: Any) -> StoredBytes:
    if isinstance(value, Stores):
        return value.stored()
    if isinstance(value, torch.Generator):
        return StoredBytes(ram=value.get_state().nbytes)
    if isinstance(value, nn.Module):
        return StoredBytes(ram=tensor_bytes([*value.parameters(), *value.buffers()]))
    if isinstance(value, Mapping):
        return sum((_bytes_of(entry) for entry in value.values()), StoredBytes())
    if isinstance(value, (list, tuple)):
        return sum((_bytes_of(entry) for entry in value), StoredBytes())
    return StoredBytes(ram=getattr(value, "nbytes", 0))


def _is_empty(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)
