"""Metrics: the survey's figures, retrieval, and Avalanche plugin metrics that collect what they need.

The plugin metrics import Avalanche; the figures do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.evaluation.accumulators import AccuracyCounts, ClassCounts, SampleColumns
    from avalanche_vlm.evaluation.base import VLMMetric
    from avalanche_vlm.evaluation.declaration import Figure
    from avalanche_vlm.evaluation.figures import list_figures, register_figure
    from avalanche_vlm.evaluation.held_out import HeldOutScores
    from avalanche_vlm.evaluation.matrix import PerformanceMatrix
    from avalanche_vlm.evaluation.per_class import ClassAccuracies
    from avalanche_vlm.evaluation.survey import survey_metrics, zsd
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "AccuracyCounts",
    "ClassAccuracies",
    "ClassCounts",
    "Figure",
    "HeldOutScores",
    "PerformanceMatrix",
    "SampleColumns",
    "VLMMetric",
    "list_figures",
    "register_figure",
    "survey_metrics",
    "zsd",
]
