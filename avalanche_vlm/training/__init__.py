"""Strategies, plugins and recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.training import recipes
    from avalanche_vlm.training.checkpoint import CheckpointPlugin, resume
    from avalanche_vlm.training.criteria import ClassCriterion, ContrastiveCriterion, SigmoidCriterion, criterion_for
    from avalanche_vlm.training.strategies import VLMMixin, VLMNaive
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "CheckpointPlugin",
    "ClassCriterion",
    "ContrastiveCriterion",
    "SigmoidCriterion",
    "VLMMixin",
    "VLMNaive",
    "criterion_for",
    "recipes",
    "resume",
]
