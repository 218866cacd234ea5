"""One account of the bytes that a recipe stores between tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch


@dataclass(frozen=True)
class StoredBytes:
    """Bytes kept between tasks.

    :param ram: in memory.
    :param disk: in files.
    """

    ram: int = 0
    disk: int = 0

    def __add__(self, other: StoredBytes) -> StoredBytes:
        return StoredBytes(self.ram + other.ram, self.disk + other.disk)

    @property
    def total(self) -> int:
        return self.ram + self.disk


@runtime_checkable
class Stores(Protocol):
    """Anything that keeps state between tasks: memories, teachers, anchors, modules."""

    def stored(self) -> StoredBytes: ...


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the elements of these tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def stored_bytes(parts: Iterable[Any]) -> StoredBytes:
    """The sum over the parts that store something; the others count nothing."""
    return sum((part.stored() for part in parts if isinstance(part, Stores)), StoredBytes())
