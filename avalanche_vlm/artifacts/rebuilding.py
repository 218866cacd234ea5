"""Recipes built again on a base, for what they make of the model: nothing is trained by what stands in here."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic_core import PydanticSerializationError, to_jsonable_python

from avalanche_vlm._generators import generators_kept
from avalanche_vlm.artifacts.description import Built
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.training import recipes
from avalanche_vlm.training.recipes.options import plain_value

_PAIRS = 64


def build_again(model: VLM, built: Sequence[Built], where: object, space: LabelSpace | None) -> None:
    """Give a base its classes and the parts that recipes put into it. Their plugins, which train, are let go.

    What a recipe computes of resources, or draws, while it is built is overwritten by the state that is loaded
    afterwards; so anything of the right kind stands in for a resource here.

    :param model: the base, changed in place.
    :param built: the recipes, the first one first.
    :param where: what the sentence of an error calls the saved model.
    :param space: its label space, of which all that is to be warned was said when it was trained; None for none.
    :raises InputError: for a recipe that is not there, or an option that it does not take or that names a path.
    """
    if space is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            model.set_label_space(space)
    with generators_kept():
        torch.default_generator.manual_seed(0)
        for step in built:
            refuse_paths(step, where)
            freeze_as_before(model, step)
            given: dict[str, Any] = {**stand_ins(model, step.resources, where), **step.options}
            recipes.build(step.recipe, model=model, **given)


def freeze_as_before(model: VLM, step: Built) -> None:
    """Freeze the towers that were frozen when a recipe was built: some build nothing in those.

    :param model: the model that the recipe is about to be built on.
    :param step: the recipe, with the towers that were frozen when it was built.
    """
    if step.frozen is not None:
        model.unfreeze(*model.frozen).freeze(*step.frozen)


def refuse_paths(step: Built, where: object) -> None:
    """Refuse a recipe's option that names a path: what is loaded decides nothing about what is read or written.

    :param step: a recipe with its options.
    :param where: what the sentence of an error calls the saved model.
    :raises InputError: naming the option.
    """
    try:
        chosen = recipes.get(step.recipe)
    except InputError as error:
        raise InputError(
            f"{where} needs the recipe {step.recipe!r}, which is not there; a recipe of another distribution comes "
            "when that is installed"
        ) from error
    for name, value in step.options.items():
        if chosen.option(name).is_path and value:
            raise InputError(
                f"{where} sets {step.recipe}'s option {name} to a path, {value!r}: a saved model names none"
            )


def without_paths(recipe: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a saved model keeps them: in JSON types, without places on this machine.

    :param recipe: name of the recipe.
    :param options: options by name.
    :raises InputError: for an option whose value JSON does not have, such as a function.
    """
    chosen, kept = recipes.get(recipe), {}
    for name, value in options.items():
        if chosen.option(name).is_path:
            continue
        try:
            kept[name] = to_jsonable_python(plain_value(value))
        except PydanticSerializationError as error:
            raise InputError(
                f"recipe {recipe}: {name} is a {type(value).__name__}, which no saved model can hold"
            ) from error
    return kept


def stand_ins(model: VLM, resources: Sequence[str], where: object) -> dict[str, Any]:
    """What a recipe is given in the place of resources when it is built to be loaded into.

    :param model: the model that the recipe is built on.
    :param resources: names of the resources that it was trained with.
    :param where: what the sentence of an error calls the saved model.
    :raises InputError: for a resource that there is not.
    """
    made = {"reference": lambda: _pairs(model), "generator": NoGenerator}
    unknown = [name for name in resources if name not in made]
    if unknown:
        raise InputError(f"{where} names a resource that recipes do not take, {unknown[0]!r}")
    return {name: made[name]() for name in resources}


def _pairs(model: VLM) -> ReferencePairs:
    """Noise with numbers as captions: what a recipe computes of it while it is built is not used."""
    size = model.transforms.eval.size
    images = torch.rand(_PAIRS, 3, size, size, generator=torch.Generator().manual_seed(0))
    return ReferencePairs(images, tuple(map(str, range(_PAIRS))), _same)


def _same(image: torch.Tensor) -> torch.Tensor:
    return image


class NoGenerator:
    """Stands where training has a generator of pictures."""

    def __call__(self, prompts: Sequence[str], seed: int) -> torch.Tensor:
        """Refuse to draw."""
        raise InputError("a model that was loaded predicts; to train it, build its recipe with a generator of pictures")
