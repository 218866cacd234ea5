"""Published methods as short compositions of parts, one module per family of the survey.

``build("zscl", model=model, reference=pairs)`` gives a list of plugins for any Avalanche strategy.
"""

from avalanche_vlm.training.recipes import baseline, replay, distillation, similarity, adaptation, fusion  # noqa: I001, the survey's order
from avalanche_vlm.training.recipes.registry import RECIPES, Recipe, build, get, recipe

__all__ = [
    "RECIPES",
    "Recipe",
    "adaptation",
    "baseline",
    "build",
    "distillation",
    "fusion",
    "get",
    "recipe",
    "replay",
    "similarity",
]
