"""JSON files that are read again: nothing else than JSON, and nothing that no reader would take."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avalanche_vlm._given import RECORD_BYTES, content_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import reason
from avalanche_vlm.units import human_bytes, in_short

DEEPEST = 100
"""Objects and lists within each other."""
LARGEST = 1 << 64
"""Whole numbers are smaller: seeds go up to there."""


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
        found = _loaded(text)
        if _too_large(found):
            _loaded(text, parse_float=_finite)  # which says what is
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
        raise unreadable(path, error) from error


def json_lines(content: Any, before: str = "\n") -> Iterator[str]:
    """JSON with a line for every entry, and one for a whole list of numbers: of a matrix, which grows with the square
    of the tasks, a line a row.

    :param content: plain JSON types.
    :param before: what begins a line of the same depth.
    :return: parts of the text.
    :raises ValueError: for a number that JSON does not have.
    """
    entries = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    if not entries or (isinstance(content, list) and _NESTED.isdisjoint(map(type, content))):
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


def unreadable(path: Path, error: InputError) -> InputError:
    """Why a file is not written that would be refused when it is read.

    :param path: the file that is not written.
    :param error: what its reader would say.
    :return: the error that says so.
    """
    why = str(error).removeprefix(f"{path} is damaged: ")
    return InputError(f"cannot write {path}, since it could not be read again: {why}")


def _loaded(text: bytes, **how: Any) -> Any:
    return json.loads(text.decode(), object_pairs_hook=each_once, parse_constant=_no_number, parse_int=_whole, **how)


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys are each there once: of two, readers take one or the other.

    :param pairs: its keys and values.
    :raises ValueError: if a key is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"it has {in_short(twice)!r} twice")
    return found


def _no_number(said: str) -> None:
    raise ValueError(f"it has a {said}, which JSON does not know")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it has the number {in_short(text, 30)}, which is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 21 or abs(int(text)) >= LARGEST:
        raise ValueError(f"it has the number {in_short(text, 30)}, which is too large")
    return int(text)


_NESTED = frozenset((dict, list))


def _too_large(found: Any) -> bool:
    """Whether there is a number that is infinite: JSON writes none, so one that was too large has become it. Looked for
    part by part, and not at each of a million numbers.

    :raises RecursionError: if it is nested too deep.
    """
    level: list[Any] = [[found]]
    infinite = False
    for _ in range(DEEPEST + 1):
        inner: list[Any] = []
        for part in level:
            values = part.values() if type(part) is dict else part
            infinite = infinite or math.inf in values or -math.inf in values
            if not _NESTED.isdisjoint(map(type, values)):
                inner += [value for value in values if type(value) in _NESTED]
        if not inner:
            return infinite
        level = inner
    raise RecursionError
