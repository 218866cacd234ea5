"""Published methods as short compositions of parts, in one module or folder per family of the survey.

``recipes.list()`` names them, ``recipes.describe("zscl")`` says what one is, and ``recipes.build("zscl", model=model,
reference=pairs)`` gives a list of plugins for any Avalanche strategy. A recipe is declared by :func:`recipe`, in a file
of a family's folder or anywhere else; distributions bring theirs as modules under the entry-point group
``avalanche_vlm.recipes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.training.recipes.building import all_options, check_options, parse_options
    from avalanche_vlm.training.recipes.building import build_recipe as build
    from avalanche_vlm.training.recipes.declaration import (
        FAMILIES,
        RESOURCES,
        AdamW,
        Paper,
        Plugins,
        Published,
        Recipe,
        Tuned,
        Unpublished,
    )
    from avalanche_vlm.training.recipes.description import RecipeDescription
    from avalanche_vlm.training.recipes.description import describe_recipe as describe
    from avalanche_vlm.training.recipes.registry import forget_recipe as forget
    from avalanche_vlm.training.recipes.registry import get_recipe as get
    from avalanche_vlm.training.recipes.registry import recipe
    from avalanche_vlm.training.recipes.registry import recipe_names as list
    from avalanche_vlm.training.recipes.runnable import published_for, refuse_unpublished, settings_for
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = [
    "FAMILIES",
    "RESOURCES",
    "AdamW",
    "Paper",
    "Plugins",
    "Published",
    "Recipe",
    "RecipeDescription",
    "Tuned",
    "Unpublished",
    "all_options",
    "build",
    "check_options",
    "describe",
    "forget",
    "get",
    "list",
    "parse_options",
    "published_for",
    "recipe",
    "refuse_unpublished",
    "settings_for",
]
