"""Heads that are trained on a frozen tower's features and answer for the classes learned."""

from avalanche_vlm.models.heads.trained.base import LearnedClassesHead
from avalanche_vlm.models.heads.trained.fusion import CrossModalFusion
from avalanche_vlm.models.heads.trained.label_specific import LabelSpecificHead
from avalanche_vlm.models.heads.trained.projections import ProjectionFusionHead

__all__ = ["CrossModalFusion", "LabelSpecificHead", "LearnedClassesHead", "ProjectionFusionHead"]
