"""Logs of trainings for those who watch many: TensorBoard, Weights & Biases, MLflow, and tables as CSV.

They are Avalanche loggers, for any ``EvaluationPlugin``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.report.tracking.guarded import Guarded
    from avalanche_vlm.report.tracking.known import TRACKERS, refuse_no_tracker
    from avalanche_vlm.report.tracking.opening import Trackers, tracked_metrics, trackers
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["TRACKERS", "Guarded", "Trackers", "refuse_no_tracker", "tracked_metrics", "trackers"]
