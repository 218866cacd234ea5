"""YAML files that people write: mappings, lists and scalars as they stand, and nothing that grows or runs.

Scalars are read as the text that was written, as words of a command line are, so that no rule of YAML's turns ``no``
into a truth value or ``1e-3`` into a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from avalanche_vlm._given import content_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import reason
from avalanche_vlm.units import in_short

WRITTEN_BYTES = 1 << 20
"""The most that such a file has: what people write by hand has a hundredth of it."""
WITHIN = 20
"""Mappings and lists within each other."""

VALUES = 20_000
"""The most values that it has."""
_SLOWLY = 1 << 15
"""Characters that are read without libyaml, at most."""

_HALVES = re.compile(r"\\u[dD][89a-fA-F]")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_SIMPLE = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
_RESERVED = frozenset(("true", "false", "null", "none", "yes", "no", "on", "off", "y", "n"))
_UNPRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029]")


class Written(str):
    """A scalar as it was written.

    :param text: its text, without quotation marks.
    :param plain: whether it had no quotation marks: ``3`` is a number and ``"3"`` a text.

    >>> Written("3").value, Written("3", plain=False).value, Written("null").value
    (3, '3', None)
    """

    __slots__ = ("plain",)

    def __new__(cls, text: str, plain: bool = True) -> Written:
        """Make one.

        :param text: its text, without quotation marks.
        :param plain: whether it had no quotation marks.
        """
        made = super().__new__(cls, text)
        made.plain = plain
        return made

    plain: bool

    @property
    def empty(self) -> bool:
        """Whether it stands for nothing: ``null``, ``~`` or no text at all, without quotation marks."""
        return self.plain and self in ("", "~", "null")

    @property
    def value(self) -> Any:
        """What JSON has for it: a number, a truth value, None, or the text."""
        if self.empty:
            return None
        if self.plain and (self in ("true", "false") or (_NUMBER.fullmatch(self) and len(self) < 400)):
            return json.loads(self)
        return str(self)


def read_yaml_file(path: Path) -> dict[str, Any]:
    """What a YAML file says: a mapping of texts to :class:`Written` scalars, lists and mappings.

    :param path: a regular file of one mebibyte at most.
    :raises InputError: in one sentence, if it cannot be read, is larger, no YAML in UTF-8, no mapping, has a key twice,
        has more than 20,000 values, is nested more than 20 deep, or has an anchor, an alias or a tag: these can grow
        without end, or run code.
    """
    try:
        text = content_of(path, WRITTEN_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from error
    found = parse_yaml(text, path)
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a mapping of names to values, such as seed: 0")
    return found


def parse_yaml(text: str, path: Path) -> Any:
    """What a text in YAML says.

    :param text: the text of a file, or a part of it.
    :param path: where it is from, for the error.
    :return: mappings, lists and :class:`Written` scalars; an empty mapping for no text.
    :raises InputError: as :func:`read_yaml_file` does.
    """
    # The events alone, of which libyaml makes a mebibyte in a second: nothing is composed, resolved or constructed.
    # Bytes of a file name that are no text are escapes that it refuses, and Python's own reader, far slower, takes.
    loader: Any = yaml.SafeLoader
    if not (_HALVES.search(text) and len(text) <= _SLOWLY):
        loader = getattr(yaml, "CSafeLoader", loader)
    try:
        return _built(yaml.parse(text, Loader=loader), path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}: {getattr(error, 'problem', '')})" if mark is not None else ""
        raise InputError(f"{path} is not YAML{where}") from error
    except (RecursionError, UnicodeError, OverflowError) as error:
        raise InputError(f"{path} is not YAML") from error


def _built(events: Iterator[Any], path: Path) -> Any:
    """What events say, without recursion."""
    root: list[Any] = []
    places: list[_Place] = [_Place(root)]
    for number, event in enumerate(events):
        if number > VALUES:
            raise InputError(f"{path} has more than {VALUES:,} values")
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{path}, line {line}: anchors and aliases (& and *) are not read")
        if getattr(event, "tag", None):
            raise InputError(f"{path}, line {line}: tags (!) are not read: {in_short(event.tag)}")
        if isinstance(event, yaml.DocumentStartEvent) and root:
            raise InputError(f"{path} has several documents, and one is read")
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            places.pop()
            continue
        if isinstance(event, yaml.ScalarEvent):
            value: Any = Written(event.value, plain=not event.style and bool(event.implicit[0]))
        elif isinstance(event, yaml.MappingStartEvent):
            value = {}
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
        else:
            continue
        if fault := places[-1].put(value):
            raise InputError(f"{path}, line {line}: {fault}")
        if not isinstance(value, Written):
            if len(places) > WITHIN:
                raise InputError(f"{path}, line {line}: it is nested more than {WITHIN} deep")
            places.append(_Place(value))
    return root[0] if root and not (isinstance(root[0], Written) and root[0].empty) else {}


class _Place:
    """A mapping or list that is being filled."""

    def __init__(self, into: Any) -> None:
        self._into = into
        self._key: str | None = None

    def put(self, value: Any) -> str | None:
        """Fill in the next key or value; what is wrong with it, if something is."""
        into, key = self._into, self._key
        if isinstance(into, list):
            into.append(value)
        elif key is not None:
            into[key], self._key = value, None
        elif not isinstance(value, Written):
            return "a name is a text, and no list or mapping"
        elif (name := str(value)) in into:
            return f"it has {in_short(name)!r} twice"
        else:
            self._key = name
        return None


def plain_types(found: Any) -> Any:
    """What a file says, in JSON types.

    :param found: what :func:`parse_yaml` gives, or a part of it.
    """
    if isinstance(found, Written):
        return found.value
    if isinstance(found, dict):
        return {name: plain_types(value) for name, value in found.items()}
    return [plain_types(value) for value in found]


def yaml_text(content: Mapping[str, Any]) -> str:
    """YAML of a mapping, in which every entry has a line of its own.

    :param content: names and values, in JSON types. What is deeper than an entry of an entry stands in one line.
    :raises ValueError: for a number that JSON does not have.

    >>> print(yaml_text({"seed": 0, "lr": 1e-05, "set": {"rank": 4}, "order": ["b", "no"]}), end="")
    seed: 0
    lr: 1.0e-05
    set:
      rank: 4
    order:
      - b
      - "no"
    """
    lines = []
    for name, value in content.items():
        if value and isinstance(value, Mapping):
            lines += [f"{_scalar(name)}:", *(f"  {_scalar(of)}: {_flow(inner)}" for of, inner in value.items())]
        elif value and isinstance(value, list | tuple) and not all(isinstance(inner, int | float) for inner in value):
            lines += [f"{_scalar(name)}:", *(f"  - {_flow(inner)}" for inner in value)]
        else:
            lines.append(f"{_scalar(name)}: {_flow(value)}")
    return "".join(f"{line}\n" for line in lines)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(of)}: {_flow(inner)}" for of, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, Written) and value.plain and isinstance(value.value, int | float):
        return str(value)
    if isinstance(value, str):
        if _SIMPLE.fullmatch(value) and value.lower() not in _RESERVED:
            return str(value)
        return _UNPRINTABLE.sub(_escaped, json.dumps(str(value), ensure_ascii=False))
    if isinstance(value, float):
        text = json.dumps(value, allow_nan=False)
        return text if "." in text else text.replace("e", ".0e")  # as YAML 1.1 writes numbers, for other readers
    return json.dumps(value)


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
