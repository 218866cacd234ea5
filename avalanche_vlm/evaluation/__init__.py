"""Metrics: the survey's figures, retrieval, and Avalanche plugin metrics that collect what they need.

The plugin metrics import Avalanche; the figures do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.evaluation.survey import survey_metrics, zsd
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["survey_metrics", "zsd"]
