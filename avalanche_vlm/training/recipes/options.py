"""Options of a recipe: read from its signature, checked by pydantic, described in words."""

from __future__ import annotations

import inspect
import re
import reprlib
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from avalanche_vlm.errors import InputError

_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
"""A number is no text and no truth value, and a rate is finite."""


@dataclass(frozen=True)
class Option:
    """One option of a recipe.

    :param recipe: name of the recipe, for error messages.
    :param name: the option's name.
    :param annotation: its type, with the range that it accepts.
    :param default: its value where none is given.
    """

    recipe: str
    name: str
    annotation: Any
    default: Any

    @property
    def type(self) -> str:
        """The type in a word or a few, such as ``int`` or ``float or None``."""
        return " or ".join(_type_name(part) for part in _alternatives(self.annotation))

    @property
    def accepts(self) -> str:
        """What the option accepts, in words, such as ``a number above 0``."""
        return accepts(self.annotation)

    def check(self, value: Any) -> Any:
        """The value, as the recipe takes it.

        :param value: given from Python: a text is no number, and a truth value neither.
        :raises InputError: if it is of another type, or out of range.
        """
        try:
            return self._adapter.validate_python(value)
        except ValidationError:
            raise self._refusal(reprlib.repr(value)) from None

    def parse(self, text: str) -> Any:
        """The value that a text stands for.

        :param text: the value as it is written on a command line; ``none`` or ``null`` stands for None where the option
            can be None.
        :raises InputError: if it stands for nothing that the option accepts.
        """
        if text.strip().lower() in ("none", "null") and type(None) in _alternatives(self.annotation):
            return None
        try:
            return self._adapter.validate_strings(text, strict=False)
        except ValidationError:
            pass
        try:  # lists and the like, and what is written in quotation marks
            return self._adapter.validate_json(text)
        except (ValidationError, ValueError):
            raise self._refusal(text or "''") from None

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.annotation, config=_STRICT)
        except PydanticUserError:  # a pydantic model has its own configuration
            return TypeAdapter(self.annotation)

    def _refusal(self, shown: str) -> InputError:
        return InputError(f"recipe {self.recipe}: {self.name} is {self.accepts}, not {shown}")


def options_of(recipe: str, compose: Callable[..., Any], resources: Mapping[str, str]) -> dict[str, Option]:
    """The options that a composition has, in the order of its signature.

    :param recipe: name of the recipe, for error messages.
    :param compose: takes the model first, and everything else by name.
    :param resources: names of parameters that are no options.
    :raises InputError: for a parameter without a default, a catch-all, or an annotation that names nothing.
    """
    found = {}
    for name, parameter in list(inspect.signature(compose).parameters.items())[1:]:
        if name in resources:
            continue
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise InputError(f"recipe {recipe}: options are named one by one, not caught by *{name}")
        if parameter.default is inspect.Parameter.empty:
            raise InputError(f"recipe {recipe}: option {name} has no default")
        found[name] = Option(recipe, name, _resolved(recipe, name, parameter.annotation, compose), parameter.default)
    return found


def accepts(annotation: Any) -> str:
    """What a type accepts, in words.

    >>> from pydantic import Field
    >>> accepts(Annotated[float, Field(gt=0)])
    'a number above 0'
    >>> accepts(Annotated[int, Field(ge=1)] | None)
    'a whole number of 1 or more, or None'
    >>> accepts(Annotated[float, Field(ge=0, lt=1)])
    'a number of 0 or more and below 1'
    >>> accepts(Literal["image", "text", "both"])
    'image, text or both'
    """
    ranges: list[Any] = []
    if get_origin(annotation) is Annotated:
        annotation, *ranges = get_args(annotation)
    parts = _alternatives(annotation)
    if len(parts) > 1:
        words = [accepts(part) for part in parts]
        return f"{', '.join(words[:-1])}, or {words[-1]}"
    if get_origin(annotation) is Literal:
        return _listed([str(choice) for choice in get_args(annotation)])
    if annotation in (int, float):
        return ("a whole number" if annotation is int else "a number") + _range(list(_constraints(ranges)))
    named = {bool: "true or false", str: "a text", type(None): "None", Any: "any value"}
    return named.get(annotation, f"a {_type_name(annotation)}")


def _resolved(recipe: str, name: str, annotation: Any, compose: Callable[..., Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    function = inspect.unwrap(compose)
    closure = inspect.getclosurevars(function).nonlocals
    try:
        return eval(annotation, function.__globals__, dict(closure))
    except Exception as error:
        raise InputError(f"recipe {recipe}: the type of option {name}, {annotation}, is unknown ({error})") from error


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if annotation is type(None):
        return "None"
    if get_origin(annotation) is Literal:
        return " or ".join(dict.fromkeys(type(choice).__name__ for choice in get_args(annotation)))
    return getattr(annotation, "__name__", str(annotation))


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _constraints(ranges: list[Any]) -> Iterator[Any]:
    for part in ranges:
        yield from part.metadata if isinstance(part, FieldInfo) else [part]


def _range(constraints: list[Any]) -> str:
    """Bounds in words: ``from 0 to 1``, ``above 0 and at most 1``, ``of 1 or more``."""
    bounds: dict[type, Any] = {type(part): part for part in constraints}
    words = []
    if Ge in bounds and Le in bounds:
        words.append(f"from {bounds[Ge].ge} to {bounds[Le].le}")
    else:
        words += [f"of {bounds[Ge].ge} or more"] if Ge in bounds else []
        words += [f"above {bounds[Gt].gt}"] if Gt in bounds else []
        words += [f"at most {bounds[Le].le}"] if Le in bounds else []
        words += [f"below {bounds[Lt].lt}"] if Lt in bounds else []
    multiple = f", a multiple of {bounds[MultipleOf].multiple_of}" if MultipleOf in bounds else ""
    return (f" {' and '.join(words)}" if words else "") + multiple


def parameter_descriptions(docstring: str) -> dict[str, str]:
    """What a reST docstring says of each parameter.

    >>> parameter_descriptions("Sum.\\n\\n:param x: a number,\\n    any.\\n:param y: another.\\n:raises E: never.")
    {'x': 'a number, any.', 'y': 'another.'}
    """
    fields = re.split(r"^:", docstring, flags=re.MULTILINE)[1:]
    named = (re.match(r"param (\w+):\s*(.*)", field, flags=re.DOTALL) for field in fields)
    return {match[1]: " ".join(match[2].split()) for match in named if match}
