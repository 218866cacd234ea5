"""JSON files that are read again: read strictly, sealed by a digest of what they hold, each of one schema.

Whatever this package keeps may have been cut, edited, copied in from elsewhere or made by anyone. A :class:`Document`
is one kind of such files: the same type says what is written and what may be read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from avalanche_vlm._flat import flat
from avalanche_vlm._given import RECORD_BYTES, content_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import reason, replace_file
from avalanche_vlm.units import human_bytes

DEEPEST = 100
"""Objects and lists within each other."""
LARGEST = 1 << 64
"""Whole numbers are smaller: seeds go up to there."""

EXACT = ConfigDict(extra="forbid", strict=True)
"""What a schema is told: no other keys than its own, and no number for a text or a text for a number."""

DIGITS = "^[0-9a-f]{64}$"
"""What a SHA-256 looks like."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
NotBelowZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NotNegativeInt = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Points = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
"""Differences of percentages."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
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


class TruncatedError(InputError):
    """A file that is empty or ends before its content does: what was to be in it was not all written."""


def parse_json(text: bytes, path: Path) -> Any:
    """What a text in JSON says, and nothing else than JSON: no number that is none, none that no 64 bits hold, no key
    twice, and not deeper than :data:`DEEPEST`.

    :param text: the bytes of a file, in UTF-8.
    :param path: where they are from, for the error.
    :raises TruncatedError: if the text ends early.
    :raises InputError: for anything else that is wrong with it, in one sentence.

    >>> parse_json(b'{"a": 1e999}', Path("a.json"))
    Traceback (most recent call last):
    avalanche_vlm.errors.InputError: a.json is damaged: it has the number 1e999, which is too large
    """
    try:
        found = json.loads(
            text.decode(),
            object_pairs_hook=_once,
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_whole,
        )
        _check_depth(found)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is damaged: it is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        if not text.rstrip().endswith((b"}", b"]")):
            raise TruncatedError(f"{path} is damaged: it ends early, or is not JSON") from error
        raise InputError(f"{path} is damaged: it is not JSON (line {error.lineno}: {error.msg})") from error
    except RecursionError as error:
        raise InputError(f"{path} is damaged: it is nested more than {DEEPEST} deep") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return found


def read_json_file(path: Path) -> Any:
    """What a JSON file holds, read as :func:`parse_json` reads.

    :param path: a regular file of 256 MiB at most: the result of a thousand tasks has a thirtieth of them.
    :raises TruncatedError: if it ends early.
    :raises InputError: if it cannot be read, is no regular file, larger, or no JSON.
    """
    try:
        text = content_of(path, RECORD_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    return parse_json(text, path)


def refuse_unreadable(text: bytes, path: Path) -> Any:
    """Refuse to write what would be refused when it is read.

    :param text: the bytes that a file should have.
    :param path: the file that they are for.
    :return: what they say.
    :raises InputError: as :func:`read_json_file` does of such a file.
    """
    if len(text) > RECORD_BYTES:
        most = f"{human_bytes(len(text))}, and such a file is read up to {human_bytes(RECORD_BYTES)}"
        raise InputError(f"cannot write {path}: it would have {most}")
    try:
        return parse_json(text, path)
    except InputError as error:
        raise _unreadable(path, error) from error


def json_lines(content: Any, before: str = "\n") -> Iterator[str]:
    """JSON with a line for every entry, and one for a whole list of numbers: of a matrix, which grows with the square
    of the tasks, a line a row.

    :param content: plain JSON types.
    :param before: what begins a line of the same depth.
    :return: parts of the text.
    :raises ValueError: for a number that JSON does not have.
    """
    entries = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    if not entries or (isinstance(content, list) and not any(isinstance(entry, dict | list) for entry in content)):
        yield json.dumps(content, allow_nan=False)
        return
    inner = f"{before} "
    begin, end = "{}" if isinstance(content, dict) else "[]"
    for number, entry in enumerate(content):
        yield f"{',' if number else begin}{inner}"
        if isinstance(content, dict):
            yield f"{json.dumps(entry)}: "
            entry = content[entry]
        yield from json_lines(entry, inner)
    yield f"{before}{end}"


@dataclass(frozen=True)
class Document(Generic[T]):
    """A kind of JSON files that this package writes and reads again: an object with the number of its format, and with
    a digest of all the rest.

    :param name: what such a file is, as sentences say it: ``"the result of a run"``.
    :param schema: the type of its content: a pydantic model, or a dictionary type with :data:`EXACT`.
    :param format: number of its format; another one is another format.
    """

    name: str
    schema: Any
    format: int = 1

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
            raise _unreadable(path, error) from error
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
            there = _short(repr(found["format"]))
            raise InputError(f"{path} has format {there}; this version reads format {self.format} of {self.name}")
        rest = {key: value for key, value in found.items() if key != "sha256"}
        if found.get("sha256") != seal_of(rest):
            raise InputError(f"{path} is truncated or was changed since it was written: its digest is another")
        del rest["format"]
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
        return f"it has no {_short('.'.join(place))}"
    if first["type"] == "extra_forbidden":
        return f"it has {_short('.'.join(place))}, which does not belong there"
    said = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    said = said[:1].lower() + said[1:]
    return _short(f"{'.'.join(place)}: {said}" if place else said, 300)


def _unreadable(path: Path, error: InputError) -> InputError:
    """Why a file is not written that would be refused when it is read."""
    why = str(error).removeprefix(f"{path} is damaged: ")
    return InputError(f"cannot write {path}, since it could not be read again: {why}")


def _otherwise(found: Mapping[str, Any], model: BaseModel) -> str | None:
    """The first place at which a file does not say what the model that was read from it would write: one that is not
    strict takes a text for a number, and the default for what is missing."""
    if model.model_config.get("strict"):
        return None
    there, told = flat(found), flat(json.loads(json.dumps(model.model_dump())))
    for name in {**told, **there}:
        if name not in there:
            return f"it has no {_short(name)}"
        if name not in told or json.dumps(there[name]) != json.dumps(told[name]):
            return f"{_short(name)} is {_short(repr(there[name]))}, which is never written"
    return None


def _short(text: str, most: int = 120) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= most else f"{shown[:most]}..."


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it has {_short(twice)!r} twice")
    return found


def _no_number(said: str) -> None:
    raise ValueError(f"it has a {said}, which JSON does not know")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {_short(text, 30)}, which is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 21 or abs(int(text)) >= LARGEST:
        raise ValueError(f"it has the number {_short(text, 30)}, which is too large")
    return int(text)


def _check_depth(found: Any) -> None:
    level = [found]
    for _ in range(DEEPEST):
        level = [
            value
            for part in level
            if type(part) in (dict, list)
            for value in (part.values() if type(part) is dict else part)
            if type(value) in (dict, list)
        ]
        if not level:
            return
    raise RecursionError
