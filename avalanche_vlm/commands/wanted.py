"""What is asked of recipes: that they exist, what they lack, which options they get.

It is found out twice by the same functions: from the catalogue, before anything heavy is imported, for whatever that
knows; and from the recipes themselves.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Protocol

from avalanche_vlm._content import digest
from avalanche_vlm.benchmarks.registry import get_benchmark
from avalanche_vlm.catalogue import Listed, catalogue
from avalanche_vlm.commands.arguments.configuration import SWEPT
from avalanche_vlm.commands.requests import CompareRequest, StreamRequest, TrainingRequest
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.recipes.lacking import lacks
from avalanche_vlm.training.recipes.reading import STRICT, annotation_of, read_value, refusal
from avalanche_vlm.units import did_you_mean


class Facts(Protocol):
    """What must be known of a recipe."""

    @property
    def takes(self) -> Sequence[str]:
        """The resources that it can use."""

    @property
    def needs(self) -> Sequence[str]:
        """The resources that it cannot do without."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Its options by name."""


class Source(Protocol):
    """Where recipes are known from."""

    def get(self, name: str) -> Facts:
        """What is known of a recipe.

        :param name: name of the recipe.
        :raises InputError: if there is none of that name.
        """

    def parse(self, name: str, option: str, text: str) -> Any:
        """The value of an option.

        :param name: name of the recipe.
        :param option: name of the option.
        :param text: the value as it was written.
        :raises InputError: if it stands for nothing that the option accepts.
        """


class Registered:
    """The recipes themselves."""

    def get(self, name: str) -> Facts:
        from avalanche_vlm.training import recipes

        return recipes.get(name)

    def parse(self, name: str, option: str, text: str) -> Any:
        from avalanche_vlm.training import recipes

        return recipes.parse_options(name, {option: text})[option]


class Catalogued:
    """The catalogue of the shipped recipes. Where there can be others, it is not for it to say that one does not exist;
    see :func:`complete`."""

    @cached_property
    def _lines(self) -> dict[str, Listed]:
        return {line.name: line for line in catalogue()}

    def __contains__(self, name: str) -> bool:
        return name in self._lines

    def get(self, name: str) -> Facts:
        if name not in self._lines:
            raise InputError(
                f"no recipe is called {name!r}{did_you_mean(name, self._lines)}; there are {', '.join(self._lines)}"
            )
        return self._lines[name]

    def parse(self, name: str, option: str, text: str) -> Any:
        from pydantic import TypeAdapter

        told = self._lines[name].options[option]
        annotation = None if told["schema"] is None else annotation_of(told["schema"])
        if annotation is None:
            return text  # the recipe itself tells whether it accepts that
        optional = {"type": "null"} in told["schema"].get("anyOf", ())
        try:
            return read_value(TypeAdapter(annotation, config=STRICT), text, optional=optional)
        except (ValueError, RecursionError):
            raise InputError(refusal(name, option, told["accepts"], text)) from None


REGISTERED = Registered()
CATALOGUED = Catalogued()


def complete() -> bool:
    """Whether the catalogue has all recipes that there are: none is from another distribution, and this process has
    registered none."""
    loaded = "avalanche_vlm.training.recipes.registry" in sys.modules
    return not loaded and not entry_points(group="avalanche_vlm.recipes")


def refuse_unread(request: TrainingRequest, source: Source = REGISTERED) -> None:
    """Refuse resources that none of the recipes takes.

    :param request: what was asked for.
    :param source: where the recipes are known from.
    :raises InputError: for the first resource that is given and not taken.
    """
    names = request.recipe_names()
    for resource in ("reference", "generator"):
        given = takes_resources(request.stream) and getattr(request.stream, resource) is not None
        if given and not any(resource in source.get(name).takes for name in names):
            raise InputError(f"--{resource} does not apply to {', '.join(names)}: no recipe asked for takes it")


def lacking(stream: StreamRequest, recipe: str, source: Source = REGISTERED) -> str | None:
    """What a recipe cannot do without and nothing brings: known before anything is read.

    :param stream: the stream that is asked for.
    :param recipe: name of the recipe.
    :param source: where the recipes are known from.
    :return: the sentence, or None if nothing is lacking.
    """
    bare = takes_resources(stream)
    missing = [name for name in source.get(recipe).needs if bare and getattr(stream, name) is None]
    return lacks(recipe, stream.data or stream.benchmark, missing[0]) if missing else None


def takes_resources(stream: StreamRequest) -> bool:
    """Whether reference pairs and a generator may be given: a user's own data and published benchmarks bring none.

    :param stream: the stream that is asked for.
    """
    if stream.benchmark is None or stream.data:
        return True
    return get_benchmark(stream.benchmark).family not in ("", "picturebook")


def assigned(request: TrainingRequest, recipe: str, source: Source = REGISTERED) -> Iterator[tuple[str, Any]]:
    """The options that a recipe is given, checked.

    :param request: what was asked for.
    :param recipe: name of the recipe.
    :param source: where the recipes are known from.
    :raises InputError: for an option that no recipe knows, or a value that it does not take.
    """
    own = source.get(recipe).options
    for assignment in request.assignments:
        if assignment.recipe not in (None, recipe):
            source.get(assignment.recipe)
            if assignment.recipe not in request.recipe_names():
                named = ", ".join(request.recipe_names())
                raise InputError(f"--set {assignment.text}: recipe {assignment.recipe} is not asked for, only {named}")
        elif assignment.option in own:
            yield assignment.option, source.parse(recipe, assignment.option, assignment.value)
        elif assignment.recipe or not any(
            assignment.option in source.get(name).options for name in request.recipe_names()
        ):
            known = ", ".join(own) or "none"
            raise InputError(
                f"--set {assignment.text}: recipe {recipe} has no option {assignment.option!r}"
                f"{did_you_mean(assignment.option, own)}; it has {known}"
            )  # else it is an option of another recipe of the comparison


def row_of(request: CompareRequest, recipe: str, source: Source = REGISTERED) -> str:
    """What a row of a comparison is called, and its folder.

    :param request: what was asked for, of one combination of a sweep.
    :param recipe: name of the recipe.
    :param source: where the recipes are known from.
    :return: the recipe, and the values of the sweep that it is about; what no folder can be called is a digest.
    """
    options = source.get(recipe).options
    parts = [recipe]
    for name, value in request.variants[0].named if request.variants else ():
        of, _, option = name.rpartition(".")
        assigned_here = option in options and of in ("", recipe)
        if assigned_here or (not of and name in SWEPT):
            told = f"{option}={value}"
            plain = len(told) <= 60 and re.fullmatch(r"[\w.+=-]+", told)
            parts.append(told if plain else f"{option}={digest([told])[:8]}")
    return ",".join(parts)
