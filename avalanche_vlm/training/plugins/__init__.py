"""Avalanche plugins: thin state around losses, memories and weight operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.training.plugins.analytic import AnalyticHeadPlugin, NoTrainingPlugin
    from avalanche_vlm.training.plugins.consolidation import ConsolidatedDistillationPlugin
    from avalanche_vlm.training.plugins.distillation import Comparison, DistillationPlugin
    from avalanche_vlm.training.plugins.experts import SharedExpertsPlugin
    from avalanche_vlm.training.plugins.feature_replay import FeatureReplayPlugin
    from avalanche_vlm.training.plugins.frozen_features import FrozenFeaturesPlugin
    from avalanche_vlm.training.plugins.importance import FisherPenaltyPlugin
    from avalanche_vlm.training.plugins.label_specific import LabelSpecificPlugin
    from avalanche_vlm.training.plugins.latent_replay import LatentReplayPlugin
    from avalanche_vlm.training.plugins.merged_lora import MergedLowRankPlugin
    from avalanche_vlm.training.plugins.merging import AdapterFusionPlugin, InterpolationPlugin, TaskVectorMergePlugin
    from avalanche_vlm.training.plugins.module_per_task import ModulePerTaskPlugin
    from avalanche_vlm.training.plugins.nearest_mean import NearestMeanPlugin
    from avalanche_vlm.training.plugins.progress import ProgressPlugin
    from avalanche_vlm.training.plugins.projection import NullSpaceProjectionPlugin
    from avalanche_vlm.training.plugins.projection_fusion import ProjectionFusionPlugin
    from avalanche_vlm.training.plugins.query_prompts import QueryPromptPlugin
    from avalanche_vlm.training.plugins.reference_replay import ReferenceReplayPlugin
    from avalanche_vlm.training.plugins.replay import ExemplarReplayPlugin
    from avalanche_vlm.training.plugins.schedule import WarmupCosinePlugin
    from avalanche_vlm.training.plugins.shared_module import SharedModulePlugin
    from avalanche_vlm.training.plugins.subspace_lora import SubspaceLoRAPlugin
    from avalanche_vlm.training.plugins.text_replay import TextReplayPlugin
    from avalanche_vlm.training.plugins.weights import AnchorPenaltyPlugin, RunningMeanPlugin
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "AdapterFusionPlugin",
    "AnalyticHeadPlugin",
    "AnchorPenaltyPlugin",
    "Comparison",
    "ConsolidatedDistillationPlugin",
    "DistillationPlugin",
    "ExemplarReplayPlugin",
    "FeatureReplayPlugin",
    "FisherPenaltyPlugin",
    "FrozenFeaturesPlugin",
    "InterpolationPlugin",
    "LabelSpecificPlugin",
    "LatentReplayPlugin",
    "MergedLowRankPlugin",
    "ModulePerTaskPlugin",
    "NearestMeanPlugin",
    "NoTrainingPlugin",
    "NullSpaceProjectionPlugin",
    "ProgressPlugin",
    "ProjectionFusionPlugin",
    "QueryPromptPlugin",
    "ReferenceReplayPlugin",
    "RunningMeanPlugin",
    "SharedExpertsPlugin",
    "SharedModulePlugin",
    "SubspaceLoRAPlugin",
    "TaskVectorMergePlugin",
    "TextReplayPlugin",
    "WarmupCosinePlugin",
]
