"""Files of JSON as accidents and forgers change them: a seed gives the same changes again."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from avalanche_vlm.storage.documents import seal_of

ODD = (
    None,
    True,
    -1,
    0,
    1,
    101.5,
    -1e300,
    1e300,
    1e999,
    float("nan"),
    1 << 70,
    "",
    "x",
    "9",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
)
"""Values of every kind that JSON or Python's reader of it has."""


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in nested lists and objects."""
    if place:
        yield place
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*place, key))


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """The value at a place."""
    for key in place:
        value = value[key]
    return value


def mutated(content: dict[str, Any], draws: random.Random) -> tuple[str, dict[str, Any]]:
    """What was done, and the content with one value dropped, added, doubled, swapped or replaced."""
    found = copy.deepcopy(content)
    place = draws.choice(list(places(found)))
    parent, key = at(found, place[:-1]), place[-1]
    what = draws.choice(["drop", "add", "double", "swap", "odd", "odd", "odd", "scale"])
    if what == "drop":
        del parent[key]
    elif what == "add" and isinstance(parent, dict):
        parent[draws.choice(["extra", "", "Matrix"])] = draws.choice(ODD)
    elif what == "double" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif what == "swap":
        other = draws.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        parent[key], parent[other] = parent[other], parent[key]
    elif what == "scale" and type(parent[key]) in (int, float):
        parent[key] = parent[key] * draws.choice([-1, 1.5, 100, 1e6])
    else:
        what = "odd"
        parent[key] = copy.deepcopy(draws.choice(ODD))
    return f"{what} {'.'.join(map(str, place))}", found


def spoilt(text: bytes, draws: random.Random) -> tuple[str, bytes]:
    """What was done, and the text cut, with bytes changed, with a key twice, or nested without end."""
    what = draws.choice(["cut", "byte", "twice", "deep", "utf-8", "number", "empty", "nothing"])
    at_byte = draws.randrange(1, len(text) - 1)
    found = {
        "cut": text[:at_byte],
        "byte": text[:at_byte] + bytes([text[at_byte] ^ (1 << draws.randrange(8))]) + text[at_byte + 1 :],
        "twice": text.replace(b"{", b'{"run": 1, "run": 2, ', 1),
        "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "utf-8": text[:at_byte] + b"\xff\xfe" + text[at_byte:],
        "number": text.replace(b": ", b": NaN, ", 1) if draws.random() < 0.5 else b'{"format": ' + b"9" * 5000 + b"}",
        "empty": b"",
        "nothing": draws.choice([b"null", b"[]", b"3", b"{}", b'"x"', b"\0" * 100]),
    }
    return what, found[what]


def forged(content: dict[str, Any]) -> bytes:
    """The content as a file whose digest is right."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return json.dumps({**rest, "sha256": seal_of(rest)}).encode()


def kinds(value: Any) -> Any:
    """What a value is, without what it says: numbers are alike, and lists of the same."""
    if isinstance(value, dict):
        return {key: kinds(of) for key, of in value.items()}
    if isinstance(value, list):
        return [kinds(of) for of in value]
    if type(value) in (int, float):
        return "number" if value == value and abs(value) < 1e308 else "no number"
    return type(value).__name__
