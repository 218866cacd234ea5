"""Metrics: the survey's figures, retrieval, and Avalanche plugin metrics that collect what they need.

The plugin metrics import Avalanche; the figures do not.
"""

from avalanche_vlm.evaluation.survey import survey_metrics, zsd

__all__ = ["survey_metrics", "zsd"]
