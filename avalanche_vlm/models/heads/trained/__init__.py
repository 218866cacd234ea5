"""Heads that are trained on a frozen tower's features and answer for the classes learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.models.heads.trained.base import LearnedClassesHead
    from avalanche_vlm.models.heads.trained.fusion import CrossModalFusion
    from avalanche_vlm.models.heads.trained.label_specific import LabelSpecificHead
    from avalanche_vlm.models.heads.trained.projections import ProjectionFusionHead
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["CrossModalFusion", "LabelSpecificHead", "LearnedClassesHead", "ProjectionFusionHead"]
