"""Samples with a time each as a stream of steps in time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from datetime import time as time_of_day
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_vlm.benchmarks.sources.items import Items
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.errors import InputError

_CLOCK = r"\d\d(?::\d\d(?::\d\d(?:[.,]\d+)?)?|\d\d(?:\d\d(?:[.,]\d+)?)?)?"
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d|\d{8}|\d{4}-W\d\d(?:-\d)?|\d{4}W\d{2,3})"
    rf"(?:[^\d+-]({_CLOCK})(?:[Zz]|([+-])({_CLOCK}))?)?",
    re.ASCII,
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
    """A date of ISO 8601, read alike in every version of Python: :meth:`datetime.fromisoformat` of 3.10 reads less.

    >>> str(_date("2024-W05-1")), str(_date("20240531t12z")), _date("2024-0531"), _date("soon")
    ('2024-01-29 00:00:00+00:00', '2024-05-31 12:00:00+00:00', None, None)
    """
    parts = _ISO.fullmatch(text)
    if parts is None:
        return None
    day, clock, sign, off = parts.groups()
    try:
        offset = timedelta() if off is None else datetime.combine(date.min, _clock(off)) - datetime.min
        zone = timezone(-offset if sign == "-" else offset)
        return datetime.combine(_day(day), time_of_day() if clock is None else _clock(clock), zone)
    except ValueError:
        return None


def _day(text: str) -> date:
    digits = text.replace("-", "")
    year, weekly, week = digits.partition("W")
    if weekly:
        return date.fromisocalendar(int(year), int(week[:2]), int(week[2:] or 1))
    return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))


def _clock(text: str) -> time_of_day:
    digits, _, fraction = text.replace(":", "").replace(",", ".").partition(".")
    hour, minute, second = (int(digits[at : at + 2] or 0) for at in (0, 2, 4))
    return time_of_day(hour, minute, second, int(f"{fraction[:6]:0<6}"))
