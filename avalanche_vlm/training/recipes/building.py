"""From a recipe's name and options to its plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.generators import Generator
from avalanche_vlm.models import VLM
from avalanche_vlm.training.recipes.declaration import RESOURCES, Plugins
from avalanche_vlm.training.recipes.registry import get_recipe


def build_recipe(
    name: str,
    *,
    model: VLM,
    reference: ReferencePairs | None = None,
    generator: Generator | None = None,
    **options: Any,
) -> Plugins:
    """The plugins of a recipe.

    :param name: a recipe's name.
    :param model: the model that will be trained; some recipes adapt it in place.
    :param reference: pairs to distil or train on, for the recipes that take them.
    :param generator: draws pictures of prompts, for the recipes that take one.
    :param options: values that override the recipe's defaults.
    :raises InputError: for an unknown recipe or option, a value that an option does not accept, or a resource that is
        missing.
    """
    chosen = get_recipe(name)
    checked = {option: chosen.option(option).check(value) for option, value in sorted(options.items())}
    given = {"reference": reference, "generator": generator}
    for resource in chosen.needs:
        if given[resource] is None:
            raise InputError(f"recipe {name} needs {RESOURCES[resource]}")
    resources = {resource: given[resource] for resource in chosen.takes if given[resource] is not None}
    return chosen.compose(model, **resources, **checked)


def parse_options(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Options of a recipe from what was written on a command line.

    :param name: a recipe's name.
    :param texts: values as texts, by the option's name.
    :return: values as the recipe takes them, by the option's name.
    :raises InputError: for an unknown recipe or option, or a text that stands for nothing that the option accepts.

    >>> parse_options("lora", {"rank": "8.0", "alpha": "none"})
    {'rank': 8, 'alpha': None}
    """
    chosen = get_recipe(name)
    return {option: chosen.option(option).parse(text) for option, text in texts.items()}
