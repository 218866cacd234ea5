"""All routers that there are, and how one is made by name."""

from __future__ import annotations

import inspect
from typing import Any

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers.base import Router
from avalanche_vlm.models.routers.registry import ROUTERS
from avalanche_vlm.units import did_you_mean


def list_routers() -> list[str]:
    """The names of all routers, sorted: the shipped ones, those registered elsewhere, those of entry points.

    >>> "kmeans" in list_routers()
    True
    """
    return sorted(ROUTERS.names())


def create_router(name: str, **options: Any) -> Router:
    """A router that knows no task yet.

    :param name: one of :func:`list_routers`.
    :param options: what its class is called with.
    :raises InputError: for an unknown router or option, or an option out of its range.

    >>> create_router("kmeans", quantile=0.99, centres=3).quantile
    0.99
    """
    kind = ROUTERS.get(name)
    known = list(inspect.signature(kind).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        near = did_you_mean(unknown[0], known)
        raise InputError(f"router {name} has no option {unknown[0]!r}{near}; it has {', '.join(known)}")
    return kind(**options)
