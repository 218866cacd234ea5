"""Bytes that are stored between tasks: what they are counted in, and who tells them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch


@dataclass(frozen=True)
class StoredBytes:
    """Bytes kept between tasks.

    :param ram: bytes in memory.
    :param disk: bytes in files.
    """

    ram: int = 0
    disk: int = 0

    def __add__(self, other: StoredBytes) -> StoredBytes:
        return StoredBytes(self.ram + other.ram, self.disk + other.disk)

    @property
    def total(self) -> int:
        """Bytes in memory and in files together."""
        return self.ram + self.disk


@runtime_checkable
class Stores(Protocol):
    """Anything that tells the bytes of what it keeps between tasks: memories, teachers, anchors, modules."""

    def stored(self) -> StoredBytes:
        """Bytes of all that is kept."""
        ...


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the elements of these tensors.

    :param tensors: any number of them, on any device.

    >>> tensor_bytes([torch.zeros(2, 3), torch.zeros(4, dtype=torch.int8)])
    28
    """
    return sum(t.numel() * t.element_size() for t in tensors)
