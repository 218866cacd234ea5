"""Routers by name: where each kind of router says what it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers.base import Router

ROUTERS: dict[str, type[Router]] = {}
"""The classes that :func:`register_router` has taken in, by name."""

_Kind = TypeVar("_Kind", bound=type[Router])


def register_router(name: str) -> Callable[[_Kind], _Kind]:
    """Give a class of routers the name by which recipes and commands choose it; a decorator.

    :param name: the name, as it is written in an option: ``"nearest-mean"``.
    :return: what hands back the class that it decorates, unchanged.
    :raises InputError: if another class has the name.
    """

    def take(kind: _Kind) -> _Kind:
        other = ROUTERS.setdefault(name, kind)
        # A module that is executed again, as notebooks do it, brings the same class anew.
        if (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
            raise InputError(f"a router called {name!r} exists already: {other.__module__}.{other.__qualname__}")
        ROUTERS[name] = kind
        return kind

    return take
