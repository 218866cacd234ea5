"""How many trainings this machine takes at once."""

from __future__ import annotations

import contextlib
from pathlib import Path

from avalanche_vlm._processors import GROUP

PROCESS_BYTES = 2**30
"""What a training takes beside what its model makes it take: libraries, pictures, a batch and its activations."""
MODELS = 14
"""Times the bytes of a model's weights that a training takes at most, with those of its optimizer and of what recipes
keep of the model: 13.0 was the most that was seen."""


def memory() -> int | None:
    """Bytes of memory that there are, within the limit of this process's group; None where the system does not say."""
    return min([*_meminfo("MemTotal"), *_limit()], default=None)


def free_memory() -> int | None:
    """Bytes of memory that are to be had at present, within the limit of this process's group; None where the system
    does not say."""
    free = _meminfo("MemAvailable")
    with contextlib.suppress(OSError, ValueError):
        used = int((GROUP / "memory.current").read_text())
        free += [max(0, limit - used) for limit in _limit()]
    return min(free, default=None)


def _meminfo(name: str) -> list[int]:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return [1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])]
    return []


def _limit() -> list[int]:
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: there is none
        return [int((GROUP / "memory.max").read_text())]
    return []


def jobs_at_once(runs: int, processors: int, weights: int | None, memory: int | None) -> int:
    """How many trainings to do at once, each with one thread or more.

    :param runs: trainings that there are to do.
    :param processors: processors that there are to use.
    :param weights: bytes of the model's weights; None if nobody knows.
    :param memory: bytes of memory that are free; None if nobody knows.
    :return: 1 or more.

    >>> jobs_at_once(4, 2, weights=6_000_000, memory=8 * 2**30)
    2
    >>> jobs_at_once(4, 16, weights=600_000_000, memory=32 * 2**30)
    3
    """
    if weights is None:
        return 1
    fit = runs if memory is None else memory // (PROCESS_BYTES + MODELS * weights)
    return max(1, min(runs, processors, fit))
