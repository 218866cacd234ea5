"""Every touch of a private API of our dependencies, each with its reason. ``tests/test_compat.py`` holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils.collate import default_collate_fn_map

OperatorMode = TorchDispatchMode
"""Base of modes that see every operator, forward and backward: torch documents it and builds its counters on it, but
keeps it in a module with an underscore."""


def register_collate(kind: type, collate: Callable) -> None:
    """Teach torch's default collate function a container.

    Torch documents the map as extensible but offers no public name for the default one, and Avalanche's plugins build
    loaders with the default collate over their buffers, where no ``collate_fn`` of ours would reach.

    :param kind: the container.
    :param collate: ``(samples, *, collate_fn_map) -> batch``.
    """
    default_collate_fn_map[kind] = collate


def source_datasets(dataset: Any) -> Iterator[Any]:
    """The data sets that an Avalanche data set was made of, however it was joined and split.

    Avalanche has no public way to them, and to read what they know besides samples through the samples would decode
    every image.

    :param dataset: an experience's, torch's ``ConcatDataset`` or ``Subset``, or one that stands on nothing else.
    """
    parts = [*getattr(dataset, "_datasets", ()), *getattr(dataset, "datasets", ())]
    if hasattr(dataset, "dataset"):  # torch's Subset
        parts.append(dataset.dataset)
    if not parts:
        yield dataset
    for part in parts:
        yield from source_datasets(part)
