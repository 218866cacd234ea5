"""All routers that there are: importing this module brings those of the package."""

from __future__ import annotations

import inspect
from typing import Any

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers import autoencoder, kmeans, likelihood, prototype, top_prototypes
from avalanche_vlm.models.routers.base import Router
from avalanche_vlm.models.routers.registry import ROUTERS

BUILT_IN = (prototype, kmeans, likelihood, autoencoder, top_prototypes)
"""Modules whose classes register themselves as they are imported."""


def list_routers() -> list[str]:
    """The names of all routers, those that were registered from outside the package included.

    >>> "kmeans" in list_routers()
    True
    """
    return sorted(ROUTERS)


def create_router(name: str, **options: Any) -> Router:
    """A router that knows no task yet.

    :param name: one of :func:`list_routers`.
    :param options: what its class is called with.
    :raises InputError: for an unknown router or option, or an option out of its range.

    >>> create_router("kmeans", quantile=0.99, centres=3).quantile
    0.99
    """
    if name not in ROUTERS:
        raise InputError(f"no router is called {name!r}; there are {', '.join(list_routers())}")
    known = list(inspect.signature(ROUTERS[name]).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"router {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return ROUTERS[name](**options)
