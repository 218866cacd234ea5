"""What was built on a model, as the model itself remembers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BuiltRecipe:
    """A recipe that was built on a model.

    :param recipe: name of the recipe.
    :param options: all of its options by name, defaults included, as the recipe took them.
    :param resources: names of the resources that it was given, such as ``reference``.
    :param frozen: the towers that were frozen when it was built.
    """

    recipe: str
    options: Mapping[str, Any]
    resources: tuple[str, ...]
    frozen: tuple[str, ...]
