"""Options of a recipe: read from its signature, checked by pydantic, described in words."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import PydanticUserError, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from avalanche_vlm.errors import InputError
from avalanche_vlm.training.recipes.ranges import OnThisMachine
from avalanche_vlm.training.recipes.reading import STRICT, annotation_of, no_truth_as_number, read_value, refusal
from avalanche_vlm.units import brief

_FIRST = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BUILDING = ("name", "model")
"""What building a recipe is told beside its options."""


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

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of its type, from which it can be read without the recipe; None where there is none that says
        all that it accepts."""
        try:
            found = TypeAdapter(self.annotation, config=STRICT).json_schema()
        except (PydanticUserError, ValueError):
            return None
        return found if annotation_of(found) is not None else None

    @property
    def is_path(self) -> bool:
        """Whether it names a file or folder: its type is a path's, or it is declared as a
        :data:`~avalanche_vlm.training.recipes.ranges.Workplace`."""
        return _names_place(self.annotation)

    def check(self, value: Any) -> Any:
        """The value, as the recipe takes it.

        :param value: given from Python: a text is no number, and a truth value neither. Numbers of numpy and torch are
            numbers, and a list serves for a tuple and the other way round.
        :raises InputError: if it is of another type, or out of range.
        """
        plain = plain_value(value)
        given = [plain] if plain is value or not isinstance(plain, list | tuple | dict) else [plain, value]
        for form in given:  # an option may want the array or tensor itself
            try:
                return no_truth_as_number(plain, self._adapter.validate_python(form))
            except ValueError:  # pydantic's refusal is one
                pass
        try:  # as a stored request has it: one kind of sequence for all of them, a path as a text
            return no_truth_as_number(plain, self._adapter.validate_json(json.dumps(plain)))
        except (TypeError, ValueError):
            raise InputError(refusal(self.recipe, self.name, self.accepts, brief(value))) from None

    def parse(self, text: str) -> Any:
        """The value that a text stands for.

        :param text: the value as it is written on a command line; ``none`` or ``null`` stands for None where the option
            can be None.
        :raises InputError: if it stands for nothing that the option accepts.
        """
        if self.annotation is Any:
            return _untyped(text)
        try:
            return read_value(self._adapter, text, optional=type(None) in _alternatives(self.annotation))
        except (ValueError, RecursionError):
            raise InputError(refusal(self.recipe, self.name, self.accepts, text)) from None

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.annotation, config=STRICT)
        except PydanticUserError:  # a pydantic model has its own configuration
            return TypeAdapter(self.annotation)


def options_of(recipe: str, compose: Callable[..., Any], resources: Mapping[str, str]) -> dict[str, Option]:
    """The options that a composition has, in the order of its signature.

    :param recipe: name of the recipe, for error messages.
    :param compose: takes the model first, and everything else by name.
    :param resources: names of parameters that are no options.
    :raises InputError: for a parameter without a default, a catch-all, an annotation that names nothing, or a first
        parameter that is not the model's.
    """
    parameters = list(inspect.signature(compose).parameters.items())
    if not parameters or parameters[0][0] in resources or parameters[0][1].kind not in _FIRST:
        raise InputError(f"recipe {recipe}: its function takes the model first, by position")
    found = {}
    for name, parameter in parameters[1:]:
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY or name in _BUILDING:
            raise InputError(f"recipe {recipe}: {name} cannot be the name of an option that is given by name")
        if name in resources:
            continue
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise InputError(f"recipe {recipe}: options are named one by one, not caught by *{name}")
        if parameter.default is inspect.Parameter.empty:
            raise InputError(f"recipe {recipe}: option {name} has no default")
        found[name] = Option(recipe, name, _resolved(recipe, name, parameter.annotation, compose), parameter.default)
    return found


def _untyped(text: str) -> Any:
    """What a text stands for where nothing says what it must be: a finite number, a truth value, None, a list, or the
    text itself."""
    try:
        value = json.loads({"none": "null"}.get(text.strip().lower(), text))
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def plain_value(value: Any) -> Any:
    """A value in Python's own types, as JSON can write it down.

    >>> import numpy as np
    >>> plain_value(np.int64(8)), plain_value([np.float32(0.5)]), plain_value("text")
    (8, [0.5], 'text')

    :param value: any value; numbers, arrays and tensors become numbers and lists, also in lists, tuples and mappings.
    :return: the value itself where there is nothing to change.
    """
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(map(plain_value, value))
    return {key: plain_value(part) for key, part in value.items()} if type(value) is dict else value


def json_value(value: Any) -> Any:
    """A value in JSON types; what has none, such as a function, in words.

    >>> from pathlib import Path
    >>> json_value({"where": Path("a.csv"), "rates": (0.5, 1)})
    {'where': 'a.csv', 'rates': [0.5, 1]}

    :param value: any value of an option.
    :return: the value as a file can hold it.
    """
    return to_jsonable_python(plain_value(value), fallback=repr)


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


def _names_place(annotation: Any) -> bool:
    if isinstance(annotation, OnThisMachine) or (isinstance(annotation, type) and issubclass(annotation, PurePath)):
        return True
    return any(map(_names_place, get_args(annotation)))


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
