"""Samples with a time each as a stream of steps in time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_vlm.benchmarks.sources.items import Items
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.errors import InputError

_ISO = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?:[T ](\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?)?(?:Z|([+-])(\d\d):?(\d\d)?)?)?"
)
MOST_STEPS = 1000
"""Distinct times that are steps of their own unless a number of steps is said: more are dates, and no years."""


def in_steps(items: Items, number: int | None, path: Path, problems: Problems) -> tuple[Items, list[str]]:
    """Give samples, whose tasks are times, to steps: equal times are in one step, and steps have as many samples as
    that allows.

    :param items: samples whose tasks are numbers, such as years, or dates in ISO 8601.
    :param number: number of steps, from 1 to the number of distinct times; None makes every time a step of its own.
    :param path: the table, for messages.
    :param problems: what becomes of samples without a time that can be read.
    :return: the samples with steps for tasks, and the names of the steps in the order of time.
    :raises InputError: for what is no time unless it is skipped, and for a number that there cannot be.
    """
    items, when = _timed(items, problems)
    if not items:
        raise InputError(f"{path} has no row with a time that can be read")
    counts: dict[Any, int] = {}
    words: dict[Any, str] = {}
    numbers = np.bincount(items.task.codes, minlength=len(items.task.values))
    for code in items.task.used().tolist():
        word = items.task.values[code]
        counts[when[word]] = counts.get(when[word], 0) + int(numbers[code])
        words.setdefault(when[word], word)
    times = sorted(counts)
    if number is None and len(times) > MOST_STEPS:
        raise InputError(f"{path} has {len(times):,} times: say with steps (--steps N) how many steps are made of them")
    if number is not None and (
        isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= len(times)
    ):
        raise InputError(f"steps is a number from 1 to {len(times)}, the number of distinct times, not {number!r}")
    step_of = dict(zip(times, even_steps([counts[time] for time in times], number or len(times)), strict=True))
    members: dict[int, list[Any]] = {}
    for time in times:
        members.setdefault(step_of[time], []).append(time)
    titles = [_title(words[of[0]], words[of[-1]]) for of in members.values()]
    return replace(items, task=items.task.recoded(lambda word: titles[step_of[when[word]]])), titles


def even_steps(counts: Sequence[int], number: int) -> list[int]:
    """The step of each time, so that every step has one at least and steps have about as many samples each.

    :param counts: samples of each time, in the order of time.
    :param number: number of steps, from 1 to the number of times.
    :return: steps from 0, which never fall.

    >>> even_steps([1, 1, 1, 1], 2), even_steps([9, 1, 1], 3), even_steps([1, 1, 9], 2)
    ([0, 0, 1, 1], [0, 1, 2], [0, 0, 1])
    """
    total, before, step, found = sum(counts), 0, 0, list[int]()
    for place, count in enumerate(counts):
        middle = int((before + count / 2) * number / total)
        left = len(counts) - place  # times from here on, this one among them
        if place and (middle > step or left <= number - 1 - step):
            step = min(step + 1, number - 1)
        found.append(step)
        before += count
    return found


def _title(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _timed(items: Items, problems: Problems) -> tuple[Items, Mapping[str, Any]]:
    """The samples that have a time, and what it is by their tasks: a number where all are numbers, otherwise a date."""
    numbers = {task: _number(task) for task in items.tasks()}
    if None not in numbers.values():
        return items, numbers
    dates = {task: _date(task) for task in numbers}
    if not any(dates.values()) and any(time is not None for time in numbers.values()):
        # Numbers, and some that are neither: it is these that have no time.
        known: Mapping[str, Any] = numbers
        wanted = "a number, as others are"
    else:
        known, wanted = dates, "a number, or a date as in 2024-05-31 where others are no numbers"
    lacks = np.array([known.get(task) is None for task in items.task.values])[items.task.codes]
    for row in np.flatnonzero(lacks).tolist():
        problems.add(f"{items.where(row)}the time is {wanted}, not {items[row].task!r:.60}")
    return items.at(~lacks), known


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _date(text: str) -> datetime | None:
    for form in (text, _in_full(text)):  # Python 3.10 reads the full form alone
        try:
            found = datetime.fromisoformat(form)
        except ValueError:
            continue
        return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
    return None


def _in_full(text: str) -> str:
    """A date of ISO 8601 with everything in it that may be left out; any other text as it is.

    >>> _in_full("20240531T12Z"), _in_full("2024-05-31 12:00:30.5+0200"), _in_full("soon")
    ('2024-05-31T12:00:00.000000+00:00', '2024-05-31T12:00:30.500000+02:00', 'soon')
    """
    parts = _ISO.fullmatch(text)
    if parts is None:
        return text
    year, month, day, hour, minute, second, fraction, sign, off, off_minutes = parts.groups()
    clock = f"{hour or '00'}:{minute or '00'}:{second or '00'}.{(fraction or '')[:6]:0<6}"
    return f"{year}-{month}-{day}T{clock}{sign or '+'}{off or '00'}:{off_minutes or '00'}"
