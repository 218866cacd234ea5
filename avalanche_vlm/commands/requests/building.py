"""From parsed arguments to the request that they stand for, built once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from avalanche_vlm.commands.requests import deploying, living, showing, training
from avalanche_vlm.commands.requests.parts import Part

REQUESTS: dict[str, Callable[[argparse.Namespace], Part]] = {
    "run": training.run_request,
    "compare": training.compare_request,
    "diagnose": training.diagnose_request,
    "advise": training.advise_request,
    "update": living.update_request,
    "versions": living.versions_request,
    "rollback": living.rollback_request,
    "diff": living.diff_request,
    "report": showing.report_request,
    "predict": deploying.predict_request,
    "retrieve": deploying.retrieve_request,
    "export": deploying.export_request,
    "serve": deploying.serve_request,
    "list": showing.list_request,
    "doctor": showing.doctor_request,
}
"""What turns the arguments of each command into its request."""


def swept(several: Sequence[tuple[tuple[tuple[str, str], ...], Part]]) -> Part:
    """One request of all combinations of a sweep.

    :param several: the values of each combination by name, and the request that it stands for; one of each kind
        without a sweep.
    """
    named, first = several[0]
    if not named or not isinstance(first, training.CompareRequest):
        return first
    variants = [
        training.Variant(named=of, train=one.train, assignments=one.assignments)
        for of, one in several
        if isinstance(one, training.CompareRequest)
    ]
    return first.model_copy(update={"variants": tuple(variants)})
