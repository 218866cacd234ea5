"""What a recipe is, and how one is found, described and built."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.generators import Generator
from avalanche_vlm.models import VLM

Plugins = list[SupervisedPlugin]

RESOURCES = {"reference": "reference=ReferencePairs(...)", "generator": "generator=..., to draw pictures of prompts"}
"""What a recipe may take besides options, and how to give it. A parameter without a default must be given."""


@dataclass(frozen=True)
class Recipe:
    """A named composition.

    :param name: as users write it.
    :param family: of the survey's paradigms: ``none``, ``MMRE``, ``CREG``, ``PEA``, ``fusion``.
    :param compose: ``(model, *, ...) -> plugins``.
    :param kinds: of streams that it is for.
    """

    name: str
    family: str
    compose: Callable[..., Plugins]
    kinds: tuple[str, ...] = ("classes", "pairs")

    @property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        return {name: p for name, p in inspect.signature(self.compose).parameters.items() if name != "model"}

    @property
    def settings(self) -> dict[str, Any]:
        """The options and their defaults."""
        return {name: p.default for name, p in self._parameters.items() if name not in RESOURCES}

    @property
    def takes(self) -> tuple[str, ...]:
        """The resources that it can use, of :data:`RESOURCES`."""
        return tuple(name for name in self._parameters if name in RESOURCES)

    @property
    def needs(self) -> tuple[str, ...]:
        """Those that it cannot do without."""
        return tuple(name for name in self.takes if self._parameters[name].default is inspect.Parameter.empty)


RECIPES: dict[str, Recipe] = {}


def recipe(name: str, **facts: Any) -> Callable[[Callable[..., Plugins]], Callable[..., Plugins]]:
    """Register a composition.

    :param facts: fields of :class:`Recipe`.
    """

    def register(compose: Callable[..., Plugins]) -> Callable[..., Plugins]:
        RECIPES[name] = Recipe(name, compose=compose, **facts)
        return compose

    return register


def get(name: str) -> Recipe:
    """The recipe of that name.

    :raises InputError: if there is none.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def build(
    name: str,
    *,
    model: VLM,
    reference: ReferencePairs | None = None,
    generator: Generator | None = None,
    **settings: Any,
) -> Plugins:
    """The plugins of a recipe.

    :param name: one of :data:`RECIPES`.
    :param model: the model that will be trained; some recipes adapt it in place.
    :param reference: pairs to distil or train on, for the recipes that take them.
    :param generator: draws pictures of prompts, for the recipes that take one.
    :param settings: override the recipe's defaults.
    :raises InputError: for an unknown recipe or option, or a resource that is missing.
    """
    chosen = get(name)
    unknown = set(settings) - set(chosen.settings)
    if unknown:
        options = ", ".join(chosen.settings) or "none"
        raise InputError(f"recipe {name} has no option {sorted(unknown)[0]!r}; it has {options}")
    given = {"reference": reference, "generator": generator}
    for resource in chosen.needs:
        if given[resource] is None:
            raise InputError(f"recipe {name} needs {RESOURCES[resource]}")
    resources = {resource: given[resource] for resource in chosen.takes if given[resource] is not None}
    return chosen.compose(model, **resources, **settings)
