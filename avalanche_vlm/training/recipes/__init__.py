"""Published methods as short compositions of parts, one module per family of the survey.

``build("zscl", model=model, reference=pairs)`` gives a list of plugins for any Avalanche strategy.
"""

from avalanche_vlm.training.recipes import (  # noqa: I001, in the survey's order
    baseline,
    replay,
    distillation,
    similarity,
    penalties,
    low_rank,
    adaptation,
    adapters,
    prompts,
    query_prompts,
    analytic,
    feature_heads,
    fusion,
    rapf,
)
from avalanche_vlm.training.recipes.registry import RECIPES, Recipe, build, get, recipe

__all__ = [
    "RECIPES",
    "Recipe",
    "adaptation",
    "adapters",
    "analytic",
    "baseline",
    "build",
    "distillation",
    "feature_heads",
    "fusion",
    "get",
    "low_rank",
    "penalties",
    "prompts",
    "query_prompts",
    "rapf",
    "recipe",
    "replay",
    "similarity",
]
