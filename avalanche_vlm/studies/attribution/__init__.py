"""Attribution by intervention: undo one change at a time, and see what brings the lost ability back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.studies.attribution.bootstrap import Estimate, PairedBootstrap
    from avalanche_vlm.studies.attribution.cause import attribute, attribute_tasks
    from avalanche_vlm.studies.attribution.measure import Laboratory, Measured
    from avalanche_vlm.studies.attribution.probe import ProbePairs
    from avalanche_vlm.studies.attribution.steps import StepWeights
    from avalanche_vlm.studies.attribution.verdict import Rule
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "Estimate",
    "Laboratory",
    "Measured",
    "PairedBootstrap",
    "ProbePairs",
    "Rule",
    "StepWeights",
    "attribute",
    "attribute_tasks",
]
