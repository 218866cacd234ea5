"""A model that lives on: it learns month after month, version after version, and a version that lost too much stays a
candidate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.studies.living.answers import SampleAnswers, TestSet, answers_of
    from avalanche_vlm.studies.living.difference import difference_of
    from avalanche_vlm.studies.living.first import record_first
    from avalanche_vlm.studies.living.gates import GateFinding, judge_gate
    from avalanche_vlm.studies.living.growth import beginning, continued
    from avalanche_vlm.studies.living.kept import keep_tests
    from avalanche_vlm.studies.living.records import Record, list_versions, roll_back
    from avalanche_vlm.studies.living.updating import Update, update
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "GateFinding",
    "Record",
    "SampleAnswers",
    "TestSet",
    "Update",
    "answers_of",
    "beginning",
    "continued",
    "difference_of",
    "judge_gate",
    "keep_tests",
    "list_versions",
    "record_first",
    "roll_back",
    "update",
]
