"""Strategies, plugins and recipes."""

from avalanche_vlm.training import recipes
from avalanche_vlm.training.criteria import ContrastiveCriterion, SigmoidCriterion, criterion_for
from avalanche_vlm.training.strategies import VLMMixin, VLMNaive

__all__ = ["ContrastiveCriterion", "SigmoidCriterion", "VLMMixin", "VLMNaive", "criterion_for", "recipes"]
