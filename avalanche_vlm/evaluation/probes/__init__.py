"""What training does to a model, seen while it happens: one probe for each of the survey's three failure modes.

The probes are Avalanche plugin metrics for any strategy; the figures that they report are pure functions in modules of
their own, which import torch alone. A probe is imported when it is asked for, and Avalanche with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.evaluation.probes.drift import DriftProbe
    from avalanche_vlm.evaluation.probes.erosion import ErosionProbe
    from avalanche_vlm.evaluation.probes.interference import InterferenceProbe
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["DriftProbe", "ErosionProbe", "InterferenceProbe"]
