"""Changes of bytes and of JSON values, drawn from a generator of random numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

TEXTS = (
    "",
    " ",
    "\0",
    "\ufeff",
    "\u2028",
    "\ud800",
    "ÄÖÜ",
    "../../x",
    "/dev/null",
    "/proc/nothing/x",
    "~",
    "a" * 300,
    "x" * 70000,
    "{}",
    "{0}",
    "{a.b}",
    "%s%n",
    "$x_{",
    "[/red]",
    "\x1b[31m",
    "nan",
    "inf",
    "-1",
    "1e999",
    "9" * 40,
    "0x10",
    "٣",
    "²",
    "true",
    "None",
    "__class__",
)
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308)
ODD = (float("nan"), float("inf"), float("-inf"), None, True, False, [], {}, [[]], [None], {"": None})
_HUGE = "a number of more digits than Python reads"
_BYTES = (0, 1, 9, 10, 13, 32, 34, 39, 44, 47, 92, 127, 128, 192, 239, 254, 255)


def changed(random: Random, content: bytes, words: Sequence[bytes] = (), others: Sequence[bytes] = ()) -> bytes:
    """Bytes with one to six changes.

    :param random: what decides the changes.
    :param content: bytes to begin with.
    :param words: bytes that mean something in such files, which are put in.
    :param others: contents of other such files, of which parts are put in.
    """
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        content = _change(random, content, words, others)
    return content


def _change(random: Random, content: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    at = random.randrange(len(content) + 1)
    length = min(random.choice((1, 1, 2, 4, 8, 64, 1024)), len(content) - at)
    before, part, after = content[:at], content[at : at + length], content[at + length :]
    kind = random.randrange(10)
    if kind == 0:
        return before  # truncated
    if kind == 1:
        return before + after
    if kind == 2:
        return before + part * random.choice((2, 3, 50, 2000)) + after
    if kind == 3 and words:
        return before + random.choice(words) + (after if random.randrange(2) else part + after)
    if kind == 4:
        size = random.choice((1, 2, 4, 8))
        number = random.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1, 16, 255))
        order = random.choice(("little", "big"))
        return before + (number % 2 ** (8 * size)).to_bytes(size, order) + content[at + size :]
    if kind == 5 and others:
        other = random.choice(others)
        start = random.randrange(len(other) + 1)
        return before + other[start : start + random.choice((16, 256, 100000))] + after
    if kind == 6 and part:
        return before + bytes([part[0] ^ (1 << random.randrange(8))]) + part[1:] + after
    if kind == 7:
        there = random.randrange(len(after) + 1)
        return before + after[:there] + part + after[there:]
    value = random.choice(_BYTES)
    return before + bytes([value]) * random.choice((1, 1, 2, 9)) + (part[1:] if kind == 8 else part) + after


def odd_value(random: Random) -> Any:
    """A JSON value that few expect."""
    return copy.deepcopy(random.choice(random.choice((TEXTS, NUMBERS, ODD, (_HUGE,)))))


def changed_json(random: Random, value: Any, words: Sequence[str] = ()) -> Any:
    """A JSON value with one to four changes; what is not changed stays a value that is understood.

    :param random: what decides the changes.
    :param value: a JSON value, which stays as it is.
    :param words: names that mean something to the reader.
    """
    holder = {"": copy.deepcopy(value)}
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        _change_json(random, holder, words)
    return holder.get("")


def as_text(random: Random, value: Any) -> bytes:
    """A JSON value as text, now and then one that was damaged as text."""
    text = json.dumps(value).replace(json.dumps(_HUGE), "9" * 5000).encode()
    return text if random.randrange(12) else changed(random, text, (b"NaN", b'"', b"[" * 5000, b"\xff", b"\\ud800"))


def _change_json(random: Random, holder: dict[str, Any], words: Sequence[str]) -> None:
    within, key = _place(random, holder)
    old, kind = within[key], random.randrange(10)
    if kind == 0 and within is not holder:
        del within[key]
    elif kind == 1 and isinstance(within, dict) and within is not holder:
        within[random.choice((*words, *TEXTS[:12]))] = within.pop(key)
    elif kind == 2 and isinstance(within, list):
        within[key:key] = [old] * random.choice((1, 2, 300))
    elif kind == 3:
        within[key] = random.choice(([old], {"a": old}, str(old), [old, old]))
    elif kind == 4 and isinstance(old, dict):
        old[random.choice((*words, *TEXTS[:12]))] = odd_value(random)
    elif kind == 5 and isinstance(old, (int, float)) and not isinstance(old, bool):
        within[key] = random.choice((old + 1, -old, old * 1000003, old / 7 if abs(old) < 2**63 else 0.5, str(old)[:99]))
    elif kind == 6:
        other, place = _place(random, holder)
        within[key] = copy.deepcopy(other[place])
    else:
        within[key] = odd_value(random)


def _place(random: Random, holder: dict[str, Any]) -> tuple[Any, Any]:
    """A place in a value, each depth as likely as the ones below it together."""
    within: Any = holder
    key: Any = ""
    while random.randrange(4) and isinstance(within[key], (dict, list)) and within[key]:
        within = within[key]
        key = random.choice(list(within)) if isinstance(within, dict) else random.randrange(len(within))
    return within, key
