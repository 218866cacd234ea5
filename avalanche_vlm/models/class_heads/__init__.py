"""Heads that are trained on a frozen tower's features and answer for the classes learned."""

from avalanche_vlm.models.class_heads.base import LearnedClassesHead
from avalanche_vlm.models.class_heads.fusion import CrossModalFusion
from avalanche_vlm.models.class_heads.label_specific import LabelSpecificHead
from avalanche_vlm.models.class_heads.projections import ProjectionFusionHead

__all__ = ["CrossModalFusion", "LabelSpecificHead", "LearnedClassesHead", "ProjectionFusionHead"]
