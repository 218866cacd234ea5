"""Routers: which task's module a sample needs, and whether it needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.models.routers.autoencoder import AutoencoderRouter
    from avalanche_vlm.models.routers.base import Route, Router
    from avalanche_vlm.models.routers.calibrated import CalibratedRouter
    from avalanche_vlm.models.routers.calibration import Rates, achieved_rates
    from avalanche_vlm.models.routers.factory import create_router, list_routers
    from avalanche_vlm.models.routers.kmeans import KMeansRouter
    from avalanche_vlm.models.routers.likelihood import GaussianRouter, MixtureRouter
    from avalanche_vlm.models.routers.prototype import PrototypeRouter
    from avalanche_vlm.models.routers.reference_gate import ReferenceGate
    from avalanche_vlm.models.routers.registry import register_router
    from avalanche_vlm.models.routers.top_prototypes import TopPrototypesRouter
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "AutoencoderRouter",
    "CalibratedRouter",
    "GaussianRouter",
    "KMeansRouter",
    "MixtureRouter",
    "PrototypeRouter",
    "Rates",
    "ReferenceGate",
    "Route",
    "Router",
    "TopPrototypesRouter",
    "achieved_rates",
    "create_router",
    "list_routers",
    "register_router",
]
