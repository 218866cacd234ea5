"""Documents: JSON files of one schema each, sealed by a digest of what they hold.

Whatever this package keeps may have been cut, edited, copied in from elsewhere or made by anyone. A :class:`Document`
is one kind of such files: the same type says what is written and what may be read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from avalanche_vlm._flat import flat
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import replace_file
from avalanche_vlm.storage.json_files import json_lines, read_json_file, refuse_unreadable, unreadable
from avalanche_vlm.units import in_short

EXACT = ConfigDict(extra="forbid", strict=True)
"""What a schema is told: no other keys than its own, and no number for a text or a text for a number."""

DIGITS = "^[0-9a-f]{64}$"
"""What a SHA-256 looks like."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that is one."""
NotBelowZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Amounts."""
NotNegativeInt = Annotated[int, Field(ge=0)]
"""Counts."""
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
"""Shares of a hundred."""
Points = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
"""Differences of percentages."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""Shares of one."""
LONGEST_NAME = 1 << 16
"""Characters of a name or sentence, at most."""


def _not_long(text: str) -> str:
    """As ``max_length`` would say it, which takes no text that has bytes of a file name that are no text."""
    if len(text) > LONGEST_NAME:
        raise ValueError(f"string should have at most {LONGEST_NAME} characters")
    return text


Name = Annotated[str, AfterValidator(_not_long)]
"""A name or sentence."""

T = TypeVar("T")


@dataclass(frozen=True)
class Document(Generic[T]):
    """A kind of JSON files that this package writes and reads again: an object with the number of its format, and with
    a digest of all the rest.

    :param name: what such a file is, as sentences say it: ``"the result of a run"``.
    :param schema: the type of its content: a pydantic model, or a dictionary type with :data:`EXACT`.
    :param format: number of its format; another one is another format.
    :param later: what files of earlier versions do not say, by place (``"train.amp"``), and what is meant there.
    """

    name: str
    schema: Any
    format: int = 1
    later: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def sealed(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """All that a file has, with its format and its digest.

        :param content: what it says, in JSON types, as the schema has it.
        :raises ValueError: for a number that JSON does not have.
        """
        told = json.loads(json.dumps({"format": self.format, **content}, allow_nan=False))
        return {**told, "sha256": seal_of(told)}

    def encoded(self, content: Mapping[str, Any]) -> bytes:
        """The text of a file, whatever a schema says of it.

        :param content: what it says, in JSON types.
        :raises ValueError: for a number that JSON does not have.
        """
        return ("".join(json_lines(self.sealed(content))) + "\n").encode()

    def text_for(self, path: Path, content: Mapping[str, Any]) -> bytes:
        """The text of a file, which :meth:`read` will take.

        :param path: the file that it is for.
        :param content: what it says, in JSON types, as the schema has it.
        :raises InputError: if it says something else than the schema has, or is larger than what is read.
        :raises ValueError: for a number that JSON does not have.
        """
        text = self.encoded(content)
        found = refuse_unreadable(text, path)
        try:
            self.checked(found, path)
        except InputError as error:
            raise unreadable(path, error) from error
        return text

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a file, whole or not at all.

        :param path: the file that is replaced.
        :param content: what it says, in JSON types, as the schema has it.
        :raises InputError: if it cannot be written, naming the file, or could not be read again: what is there stays.
        :raises ValueError: for a number that JSON does not have.
        """
        replace_file(path, self.text_for(path, content))

    def read(self, path: Path) -> T:
        """Read a file.

        :param path: path of the file that is read.
        :return: what it says, as the schema has it.
        :raises TruncatedError: if it ends early.
        :raises InputError: in one sentence that names file and field, if it cannot be read, was changed, is of another
            format, or says something else than the schema has.
        """
        return self.checked(read_json_file(path), path)

    def checked(self, found: Any, path: Path) -> T:
        """What a file says.

        :param found: what JSON it holds.
        :param path: where it is from, for the error.
        :raises InputError: as :meth:`read` does.
        """
        if not isinstance(found, dict):
            raise InputError(f"{path} is damaged: it is not a JSON object")
        if "format" not in found:
            raise InputError(f"{path} is not {self.name} as this version writes it: it does not say its format")
        if type(found["format"]) is not int or found["format"] != self.format:
            there = in_short(repr(found["format"]))
            raise InputError(f"{path} has format {there}; this version reads format {self.format} of {self.name}")
        rest = {key: value for key, value in found.items() if key != "sha256"}
        if found.get("sha256") != seal_of(rest):
            raise InputError(f"{path} is truncated or was changed since it was written: its digest is another")
        del rest["format"]
        for place, meant in self.later.items():
            *outer, last = place.split(".")
            inside = rest
            for key in outer:
                inside = inside.get(key) if isinstance(inside, dict) else None  # type: ignore[assignment]
            if isinstance(inside, dict):
                inside.setdefault(last, meant)
        try:
            told = self._adapter.validate_python(rest)
        except ValidationError as error:
            raise InputError(f"{path} is damaged: {fault_of(error)}") from error
        if isinstance(told, BaseModel) and (odd := _otherwise(rest, told)):
            raise InputError(f"{path} is damaged: {odd}")
        return told

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self.schema)


def seal_of(content: Mapping[str, Any]) -> str:
    """The digest that seals a file: SHA-256 of its content, whatever the order of its keys and its spaces.

    :param content: all that it says, its format included, in JSON types.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fault_of(error: ValidationError) -> str:
    """What a schema finds wrong first, in words: the field and why.

    :param error: what pydantic has raised.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "missing":
        return f"it has no {in_short('.'.join(place))}"
    if first["type"] == "extra_forbidden":
        return f"it has {in_short('.'.join(place))}, which does not belong there"
    said = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    said = said[:1].lower() + said[1:]
    return in_short(f"{'.'.join(place)}: {said}" if place else said, 300)


def _otherwise(found: Mapping[str, Any], model: BaseModel) -> str | None:
    """The first place at which a file does not say what the model that was read from it would write: one that is not
    strict takes a text for a number, and the default for what is missing."""
    if model.model_config.get("strict"):
        return None
    there, told = flat(found), flat(json.loads(json.dumps(model.model_dump())))
    for name in {**told, **there}:
        if name not in there:
            return f"it has no {in_short(name)}"
        if name not in told or json.dumps(there[name]) != json.dumps(told[name]):
            return f"{in_short(name)} is {in_short(repr(there[name]))}, which is never written"
    return None
