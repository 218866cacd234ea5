"""A router with a gate in front of it, as several recipes have it."""

from __future__ import annotations

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.routers import CalibratedRouter, ReferenceGate, Router, create_router
from avalanche_vlm.training.data import reference_features


def gated_router(
    name: str, model: VLM, reference: ReferencePairs | None, ood_accepted: float, **options: float
) -> Router:
    """A router, behind a gate that keeps out what looks like the reference where there is one.

    :param name: the router's name.
    :param model: the model whose image features are routed.
    :param reference: pictures that no task should answer; None for the router alone.
    :param ood_accepted: share of samples like the reference that may go to some task.
    :param options: options of the router.
    :raises InputError: if the router has no distances for the gate to stand before.
    """
    router = create_router(name, **options)
    if reference is None:
        return router
    if not isinstance(router, CalibratedRouter):
        raise InputError(f"a reference gate stands before a CalibratedRouter, and router {name} is none")
    return ReferenceGate(router, reference_features(model, reference), ood_accepted)
