"""State: what changes while a stream is trained, declared once and read by everyone.

An object that changes during training says in :attr:`Stateful.states` which of its attributes do, which of these are
still there between tasks, and which of those hold a user's raw data. Checkpoints, saved models, byte accounts and the
question whether raw data is kept all read that one declaration; nothing is found by walking objects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, Stores, tensor_bytes
from avalanche_vlm.memory.packing import HasState, Json, StateDict, has_state, is_function, is_json, pack, part_of
from avalanche_vlm.memory.unpacking import unpack

__all__ = [
    "GIVEN",
    "IN_MODEL",
    "KEPT",
    "RAW",
    "TRANSIENT",
    "WORKING",
    "Declared",
    "HasState",
    "Json",
    "StateDict",
    "Stateful",
    "keeps_raw_data",
    "part_of",
    "stateful_parts",
    "stored_bytes",
    "undeclared",
]


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
TRANSIENT = Declared(saved=False)
"""Of no account between two experiences: gone by then, found again from what is declared, or given again by a hook
before it is asked for."""


class Stateful:
    """Base of what has a state outside ``nn.Module``: plugins, memories, teachers, references, losses with a queue.

    A subclass lists in :attr:`states` every attribute that changes while a stream is trained; if there is none, it says
    so by an empty one. Declared attributes may be all that :func:`~avalanche_vlm.memory.packing.pack` takes: tensors,
    numpy arrays, random generators, JSON values, objects with a state (other :class:`Stateful` ones, modules,
    optimizers), containers of these, and None. A function in their place has no state.

    Two objects are *made in the same way* if they come from the same constructor calls on equal models; then
    ``new.load_state_dict(old.state_dict())`` makes the new one go on exactly as the old one would have. Objects inside
    that come into being during training are made by :meth:`prepare_load`.

    >>> class Mean(Stateful):
    ...     states = {"total": KEPT, "count": WORKING}
    ...     def __init__(self):
    ...         self.total, self.count = torch.zeros(2), 0
    >>> old, new = Mean(), Mean()
    >>> old.total, old.count = torch.ones(2), 3
    >>> new.load_state_dict(old.state_dict())
    >>> new.total.tolist(), new.count, new.stored().total
    ([1.0, 1.0], 3, 8)
    """

    __slots__ = ()

    states: ClassVar[Mapping[str, Declared]] = {}
    """Attributes that change, and what each is declared as. Those of base classes count as well."""

    @classmethod
    def declared(cls) -> dict[str, Declared]:
        """The declarations of this class and its bases, by attribute name; a subclass's word goes before its base's."""
        found: dict[str, Declared] = {}
        for kind in reversed(cls.__mro__):
            own = vars(kind).get("states", {})
            if not isinstance(own, Mapping) or not all(isinstance(how, Declared) for how in own.values()):
                raise InputError(f"states of {kind.__name__} says of each attribute what it is, as in {{'a': KEPT}}")
            found |= own
        return found

    @classmethod
    def declares(cls) -> bool:
        """Whether it is said what changes, be it nothing: by this class or one between it and :class:`Stateful`, and
        by each of them that is not of this package, whose classes a test holds to their declarations."""
        kinds = [kind for kind in cls.__mro__ if issubclass(kind, Stateful) and kind is not Stateful]
        told = ["states" in vars(kind) for kind in kinds]
        package = __name__.partition(".")[0]
        return any(told) and all(
            tells or kind.__module__.partition(".")[0] == package for kind, tells in zip(kinds, told, strict=True)
        )

    def state_dict(self) -> StateDict:
        """Everything declared as saved.

        :return: flat mapping of names to tensors (detached, not copied where they need not be) and JSON values.
        :raises TypeError: if a declared attribute holds something that is no state.
        """
        state: StateDict = {}
        for name, declared in self.declared().items():
            if declared.saved:
                state |= pack(name, getattr(self, name))
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` gave. After an error the object is not to be used.

        An override that has entries of its own takes them out before it passes the rest on.

        :param state: the state of an object made in the same way.
        :raises InputError: if it lacks an entry, has one too many, or one of another kind, type or shape.
        """
        owner = type(self).__name__
        saved = [name for name, declared in self.declared().items() if declared.saved]
        for entry in state:
            if entry.partition(".")[0] not in saved:
                raise InputError(f"the state given to {owner} has {entry!r}, which it does not know")
        self.prepare_load(state)
        for name in saved:
            setattr(self, name, unpack(name, getattr(self, name), state, owner))

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Make the objects inside that came into being during training, before a state is loaded. By default none.

        :param state: entries by name; it must not be changed.
        """

    def stored(self) -> StoredBytes:
        """Bytes of everything declared as kept, each object once."""
        return _stored_in(self, {})

    def keeps_raw_data(self) -> bool:
        """Whether samples of the user's can be had out of what is kept now."""
        return any(
            not _is_empty(getattr(part, name)) for part in stateful_parts([self]) for name in part.raw_attributes()
        )

    def may_keep_raw_data(self) -> bool:
        """Whether it is made to keep samples of the user's, empty or not: what is known before training."""
        return any(part.raw_attributes() for part in stateful_parts([self]))

    def raw_attributes(self) -> list[str]:
        """The attributes of its own that hold samples of the user's: by default those declared so."""
        return [name for name, declared in self.declared().items() if declared.raw]


def stateful_parts(parts: Iterable[Any]) -> Iterator[Stateful]:
    """These objects and all that they declare as theirs, each once; what declares nothing is left out.

    :param parts: plugins, for example.
    """
    seen: dict[int, Stateful] = {}
    waiting = [part for part in parts if isinstance(part, Stateful)]
    while waiting:
        part = waiting.pop(0)
        if id(part) not in seen:
            seen[id(part)] = part
            yield part
            waiting += [leaf for leaf in _leaves(_declared_values(part)) if isinstance(leaf, Stateful)]


def undeclared(parts: Iterable[Any]) -> list[str]:
    """Classes of objects of which nobody knows what they keep: those that declare nothing, and those that a kept
    attribute holds although they can give no state. Sorted, each once.

    :param parts: plugins, for example.

    >>> undeclared([object(), torch.Generator()])
    ['Generator', 'object']
    """
    parts = list(parts)
    found = {type(part).__name__ for part in parts if not isinstance(part, Stateful)}
    for part in stateful_parts(parts):
        if not part.declares():
            found.add(type(part).__name__)
        kept = [getattr(part, name) for name, how in part.declared().items() if how.kept and how.saved]
        found |= {type(leaf).__name__ for leaf in _leaves(kept) if not _is_known(leaf)}
    return sorted(found)


def keeps_raw_data(parts: Iterable[Any]) -> bool | None:
    """Whether any of these keeps samples of the user's.

    :param parts: plugins, for example.
    :return: True if one is known to; None if none is, but nobody knows what one of them keeps (see :func:`undeclared`).
    """
    parts = list(parts)
    if any(part.keeps_raw_data() for part in stateful_parts(parts)):
        return True
    return None if undeclared(parts) else False


def stored_bytes(parts: Iterable[Any]) -> StoredBytes:
    """Bytes of all that these keep, an object that several of them share counted once.

    :param parts: plugins, for example. One that declares nothing counts if it tells its bytes by ``stored()``.
    """
    seen: dict[int, Any] = {}
    return sum((_stored_in(part, seen) for part in parts if isinstance(part, Stores)), StoredBytes())


def _stored_in(value: Any, seen: dict[int, Any]) -> StoredBytes:
    """Bytes of a value, without what was seen before."""
    if id(value) in seen:
        return StoredBytes()
    seen[id(value)] = value  # held, so that its number is not given to another
    if isinstance(value, Stateful) and type(value).stored is Stateful.stored:
        kept = (getattr(value, name) for name, declared in value.declared().items() if declared.kept)
        return sum((_stored_in(entry, seen) for entry in kept), StoredBytes())
    if isinstance(value, Stores):
        return value.stored()
    if isinstance(value, torch.Generator):
        return StoredBytes(ram=value.get_state().nbytes)
    if isinstance(value, nn.Module):
        return StoredBytes(ram=tensor_bytes([*value.parameters(), *value.buffers()]))
    if isinstance(value, bytes):
        return StoredBytes(ram=len(value))
    if (inside := _inside(value)) is not None:
        return sum((_stored_in(entry, seen) for entry in inside), StoredBytes())
    return StoredBytes(ram=getattr(value, "nbytes", 0) if not isinstance(value, np.generic) else 0)


def _declared_values(part: Stateful) -> list[Any]:
    return [getattr(part, name) for name in part.declared()]


def _inside(value: Any) -> list[Any] | None:
    """What a container holds; None for anything else."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple, deque, set, frozenset)) else None


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    """What these are, or hold if they are containers."""
    for value in values:
        inside = _inside(value)
        if inside is None:
            yield value
        else:
            yield from _leaves(inside)


def _is_known(value: Any) -> bool:
    """Whether it is something that can be declared: what it keeps is then up to its own or its owner's declaration."""
    known = (torch.Tensor, np.ndarray, np.generic, torch.Generator, np.random.Generator, bytes, float, int)
    return isinstance(value, known) or is_json(value) or has_state(value) or is_function(value)


def _is_empty(value: Any) -> bool:
    """Whether nothing is in it, at any depth."""
    if (inside := _inside(value)) is not None:
        return all(map(_is_empty, inside))
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return 0 in value.shape
    return value is None or (hasattr(value, "__len__") and len(value) == 0)
