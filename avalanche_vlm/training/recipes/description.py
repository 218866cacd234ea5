"""What a recipe is, for people and programs that choose one."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from avalanche_vlm.training.recipes.declaration import stated
from avalanche_vlm.training.recipes.options import json_value, parameter_descriptions
from avalanche_vlm.training.recipes.registry import get_recipe


@dataclass(frozen=True)
class OptionDescription:
    """One option of a recipe, in words.

    :param name: the option's name.
    :param type: its type, such as ``float``.
    :param accepts: values that it takes, such as ``a number above 0``.
    :param default: its value where none is given.
    :param description: what it is.
    """

    name: str
    type: str
    accepts: str
    default: Any
    description: str


@dataclass(frozen=True)
class RecipeDescription:
    """A recipe with all its facts.

    :param name: the recipe's name.
    :param family: the survey's paradigm.
    :param papers: where it comes from, one source each.
    :param summary: what it does, in a phrase.
    :param docstring: what it does, stores and leaves out, without its parameters.
    :param kinds: kinds of streams that it is for.
    :param image_tower: which image towers it takes: any, or those of transformer blocks, which are not CLIP's ResNets.
    :param takes: resources that it can use.
    :param needs: resources that it cannot do without.
    :param options: its options, in the order of its signature.
    :param training: published training settings, each as the fields that are known, or the reason why there are none.
    :param adamw: a rate to begin with that is ours, with its reason; None where a published one serves.
    :param picturebook: what the picturebook's streams are trained with, and what was tried; None where nothing was
        chosen for this recipe.
    """

    name: str
    family: str
    papers: tuple[str, ...]
    summary: str
    docstring: str
    kinds: tuple[str, ...]
    image_tower: str
    takes: tuple[str, ...]
    needs: tuple[str, ...]
    options: tuple[OptionDescription, ...]
    training: tuple[dict[str, Any], ...]
    adamw: dict[str, Any] | None
    picturebook: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        """The description as JSON values."""
        return json_value({**vars(self), "options": [vars(option) for option in self.options]})


def describe_recipe(name: str) -> RecipeDescription:
    """A recipe with all its facts.

    :param name: a recipe's name.
    :raises InputError: if there is none of that name.

    >>> described = describe_recipe("mod-x")
    >>> described.family, [(option.name, option.accepts) for option in described.options]
    ('CREG', [('weight', 'a number of 0 or more'), ('temperature', 'a number above 0')])
    """
    chosen = get_recipe(name)
    docstring = inspect.getdoc(chosen.compose) or ""
    said = parameter_descriptions(docstring)
    return RecipeDescription(
        name=chosen.name,
        family=chosen.family,
        papers=tuple(map(str, chosen.paper)),
        summary=chosen.summary,
        docstring=re.split(r"^:(?:param|return|raises)\b", docstring, maxsplit=1, flags=re.MULTILINE)[0].strip(),
        kinds=chosen.kinds,
        image_tower=chosen.image_tower,
        takes=chosen.takes,
        needs=chosen.needs,
        options=tuple(
            OptionDescription(option.name, option.type, option.accepts, option.default, said.get(option.name, ""))
            for option in chosen.options.values()
        ),
        training=tuple(map(stated, chosen.training)),
        adamw=None if chosen.adamw is None else stated(chosen.adamw),
        picturebook=None if chosen.picturebook is None else stated(chosen.picturebook),
    )
