"""Routers by name: the shipped ones, those that are registered, those of other distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from avalanche_vlm._registry import Registry
from avalanche_vlm.models.routers.base import Router

ROUTERS: Registry[type[Router]] = Registry("router", type, "avalanche_vlm.routers", __name__.rpartition(".")[0])
"""The classes by name. An entry point of that group bears the name and refers to the class."""

_Kind = TypeVar("_Kind", bound=type[Router])


def register_router(name: str) -> Callable[[_Kind], _Kind]:
    """Give a class of routers the name by which recipes and commands choose it; a decorator.

    :param name: the name, as it is written in an option: ``"nearest-mean"``.
    :return: what hands back the class that it decorates.
    :raises InputError: if another class has the name.
    """

    def take(kind: _Kind) -> _Kind:
        ROUTERS.add(kind, name)
        return kind

    return take
