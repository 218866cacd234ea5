"""Avalanche plugins: thin state around losses, memories and weight operators."""

from avalanche_vlm.training.plugins.lora import LoRAPerTaskPlugin
from avalanche_vlm.training.plugins.reference_distillation import ReferenceDistillationPlugin
from avalanche_vlm.training.plugins.replay import ExemplarReplayPlugin
from avalanche_vlm.training.plugins.schedule import WarmupCosinePlugin
from avalanche_vlm.training.plugins.weights import AnchorPenaltyPlugin, RunningMeanPlugin

__all__ = [
    "AnchorPenaltyPlugin",
    "ExemplarReplayPlugin",
    "LoRAPerTaskPlugin",
    "ReferenceDistillationPlugin",
    "RunningMeanPlugin",
    "WarmupCosinePlugin",
]
