"""Memories by name: the shipped ones, those that are registered, those of other distributions."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from avalanche_vlm._registry import Registry
from avalanche_vlm.memory.base import Memory

M = TypeVar("M", bound=type[Memory])

ENTRY_POINTS = "avalanche_vlm.memories"
"""Group of entry points by which other distributions bring memories."""

_registry: Registry[type[Memory]] = Registry("memory", type, ENTRY_POINTS)


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
    _load_this_folder()
    return sorted(_registry.names())


def memory_class(name: str) -> type[Memory]:
    """The class of the memories of that name.

    :param name: a name of :func:`list_memories`.
    :raises InputError: if there is none.
    """
    _load_this_folder()
    return _registry.get(name)


def _load_this_folder() -> None:
    """A memory is one file here, and registers itself when it is imported."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"{package}.{module.name}")
