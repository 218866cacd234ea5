"""From a recipe's name and options to its plugins."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from avalanche_vlm._allocations import within_memory
from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.generators import Generator
from avalanche_vlm.models import VLM
from avalanche_vlm.models.built import BuiltRecipe
from avalanche_vlm.training.recipes.declaration import RESOURCES, Plugins
from avalanche_vlm.training.recipes.options import json_value
from avalanche_vlm.training.recipes.registry import get_recipe


def build_recipe(
    name: str,
    *,
    model: VLM,
    reference: ReferencePairs | None = None,
    generator: Generator | None = None,
    **options: Any,
) -> Plugins:
    """The plugins of a recipe. The model remembers that it was built (:attr:`~avalanche_vlm.models.VLM.built`).

    :param name: a recipe's name.
    :param model: the model that will be trained; some recipes adapt it in place.
    :param reference: pairs to distil or train on, for the recipes that take them.
    :param generator: draws pictures of prompts, for the recipes that take one.
    :param options: values that override the recipe's defaults.
    :raises InputError: for an unknown recipe or option, a value that an option does not accept, or a resource that is
        missing, and for options that come to more memory than is free.
    """
    chosen = get_recipe(name)
    checked = check_options(name, options)
    given = {"reference": reference, "generator": generator}
    for resource in chosen.needs:
        if given[resource] is None:
            raise InputError(f"recipe {name} needs {RESOURCES[resource]}")
    resources = {resource: given[resource] for resource in chosen.takes if given[resource] is not None}
    frozen = tuple(getattr(model, "frozen", ()))
    with within_memory(f"recipe {name} with these options"):
        plugins = chosen.compose(model, **resources, **checked)
    if not isinstance(plugins, list | tuple):
        raise InputError(f"recipe {name}: its function returns a list of plugins, not {reprlib.repr(plugins)}")
    if isinstance(model, VLM):  # others are not saved, and need not remember
        model.built.append(BuiltRecipe(name, {**chosen.settings, **checked}, tuple(sorted(resources)), frozen))
    return list(plugins)


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a recipe that were given from Python.

    :param name: a recipe's name.
    :param options: values by the option's name.
    :return: values as the recipe takes them, by the option's name in the order of the alphabet.
    :raises InputError: for an unknown recipe or option, or a value that an option does not accept.

    >>> check_options("lora", {"rank": 8})
    {'rank': 8}
    """
    chosen = get_recipe(name)
    return {option: chosen.option(option).check(value) for option, value in sorted(options.items())}


def all_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a recipe is built with, its defaults included, as a result says it.

    :param name: a recipe's name.
    :param options: values that override the recipe's defaults, by the option's name.
    :return: JSON values by the option's name.

    >>> all_options("wise-ft", {"weight": 0.5})
    {'weight': 0.5}
    """
    return {option: json_value(value) for option, value in {**get_recipe(name).settings, **options}.items()}


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
