"""Memories by name: the shipped ones, those that are registered, those of other distributions."""

from __future__ import annotations

from typing import TypeVar

from avalanche_vlm._registry import Registry
from avalanche_vlm.memory.base import Memory

M = TypeVar("M", bound=type[Memory])

ENTRY_POINTS = "avalanche_vlm.memories"
"""Group of entry points by which other distributions bring memories."""

_FOLDER = __name__.rpartition(".")[0]
"""Where a memory is one file, which registers it when it is imported."""

_registry: Registry[type[Memory]] = Registry("memory", type, ENTRY_POINTS, _FOLDER)


def register_memory(memory: M) -> M:
    """Register a memory by its name, as a decorator of its class.

    :param memory: the class, with its ``name``.
    :return: the class as it is.
    :raises InputError: if the name is taken.
    """
    _registry.add(memory)
    return memory


def list_memories() -> list[str]:
    """Names of all memories, sorted: those of this folder, those registered elsewhere, those of entry points."""
    return sorted(_registry.names())


def memory_class(name: str) -> type[Memory]:
    """The class of the memories of that name.

    :param name: a name of :func:`list_memories`.
    :raises InputError: if there is none.
    """
    return _registry.get(name)
