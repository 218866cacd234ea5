"""Values of options as they are written on a command line: read alike from a recipe's signature and from the catalogue,
which is read before any recipe is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from avalanche_vlm.units import in_short

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
"""A number is no text and no truth value, and a rate is finite."""

_RANGES = {
    "minimum": "ge",
    "exclusiveMinimum": "gt",
    "maximum": "le",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
}
_TYPES = {"integer": int, "number": float, "boolean": bool, "string": str, "null": None}


def read_value(adapter: TypeAdapter[Any], text: str, *, optional: bool) -> Any:
    """The value that a text stands for.

    :param adapter: what knows the option's type.
    :param text: the value as it is written; ``none`` or ``null`` stands for None where the option can be None.
    :param optional: whether the option can be None.
    :return: the value as the recipe takes it.
    :raises ValueError: if it stands for nothing that the option accepts.
    """
    if text.strip().lower() in ("none", "null") and optional:
        return None
    try:
        return adapter.validate_strings(text, strict=False)
    except ValidationError:
        pass
    # lists and the like, and what is written in quotation marks
    return no_truth_as_number(json.loads(text), adapter.validate_json(text))


def no_truth_as_number(given: Any, found: Any) -> Any:
    """The value, unless a truth value was given and a number was found in it: to Python True is 1, and so it is among
    the choices 1 and 2.

    :param given: the value as it was given.
    :param found: the value as it was understood.
    :raises ValueError: if a truth value was taken for a number.
    """
    if isinstance(given, bool) and not isinstance(found, bool):
        raise ValueError("a truth value is no number")
    return found


def refusal(recipe: str, option: str, accepts: str, shown: str) -> str:
    """The sentence on a value that an option does not accept.

    :param recipe: the recipe's name.
    :param option: the option's name.
    :param accepts: words for what it accepts.
    :param shown: words for the value.
    """
    return f"recipe {recipe}: {option} is {accepts}, not {in_short(shown, 80) or repr(shown)}"


def annotation_of(schema: Mapping[str, Any]) -> Any | None:
    """The type of which this is the JSON schema.

    :param schema: the schema of a number, a text, a truth value, a choice, or of one of several of these.
    :return: the type; None for a schema that says more than that.

    >>> annotation_of({"type": "integer"}), annotation_of({"enum": ["mean", "sum"]})
    (<class 'int'>, typing.Literal['mean', 'sum'])
    >>> annotation_of({"type": "array"})
    """
    said = {name: value for name, value in schema.items() if name not in ("title", "description", "default")}
    if set(said) == {"anyOf"}:
        parts = [annotation_of(part) for part in said["anyOf"]]
        return None if None in parts else Union[tuple(parts)]  # noqa: UP007
    kind = said.pop("type", None)
    if (choices := said.pop("enum", None)) or "const" in said:
        return Literal[tuple(choices or [said["const"]])]
    if kind not in _TYPES or not set(said) <= set(_RANGES):
        return None
    if kind == "null":
        return type(None)
    limits = {_RANGES[name]: value for name, value in said.items()}
    return Annotated[_TYPES[kind], Field(**limits)] if limits else _TYPES[kind]
