"""Routers by name."""

from __future__ import annotations

import inspect
from typing import Any

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers.autoencoder import AutoencoderRouter
from avalanche_vlm.models.routers.calibrated import CalibratedRouter
from avalanche_vlm.models.routers.kmeans import KMeansRouter
from avalanche_vlm.models.routers.likelihood import GaussianRouter, MixtureRouter
from avalanche_vlm.models.routers.prototype import PrototypeRouter
from avalanche_vlm.models.routers.top_prototypes import TopPrototypesRouter

ROUTERS: dict[str, type[CalibratedRouter]] = {
    "prototype": PrototypeRouter,
    "kmeans": KMeansRouter,
    "gaussian": GaussianRouter,
    "mixture": MixtureRouter,
    "autoencoder": AutoencoderRouter,
    "top-prototypes": TopPrototypesRouter,
}


def create_router(name: str, **options: Any) -> CalibratedRouter:
    """A router that knows no task yet.

    :param name: one of :data:`ROUTERS`.
    :param options: of its class.
    :raises InputError: for an unknown router or option, or an option out of its range.

    >>> create_router("kmeans", quantile=0.99, centres=3).quantile
    0.99
    """
    if name not in ROUTERS:
        raise InputError(f"no router is called {name!r}; there are {', '.join(ROUTERS)}")
    known = list(inspect.signature(ROUTERS[name]).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"router {name} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return ROUTERS[name](**options)
