"""Every touch of a private API of our dependencies, each with its reason. ``tests/test_compat.py`` holds them."""

from __future__ import annotations

from collections.abc import Callable

from torch.utils.data._utils.collate import default_collate_fn_map


def register_collate(kind: type, collate: Callable) -> None:
    """Teach torch's default collate function a container.

    Torch documents the map as extensible but offers no public name for the default one, and Avalanche's plugins build
    loaders with the default collate over their buffers, where no ``collate_fn`` of ours would reach.

    :param kind: the container.
    :param collate: ``(samples, *, collate_fn_map) -> batch``.
    """
    default_collate_fn_map[kind] = collate
