"""How much memory this process may use, and the refusal of what would take more."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from avalanche_vlm._processors import GROUP
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import human_bytes


def memory() -> int | None:
    """Bytes of memory that there are, within the limit of this process's group; None where the system does not say."""
    return min([*(_meminfo("MemTotal") or _physical()), *_limit()], default=None)


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


def _physical() -> list[int]:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
        return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return []


def _limit() -> list[int]:
    found = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of the two versions of control groups
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: there is none
            found.append(int((GROUP / name).read_text()))
    return found


def refuse_beyond(needed: int, what: str) -> None:
    """Refuse what cannot fit, before anything of it is allocated. What fits may still find no room beside other
    processes.

    :param needed: bytes that it takes, estimated from below.
    :param what: what takes them, as the subject of a sentence.
    :raises InputError: if this machine, or the limit of this process's group, has fewer bytes.
    """
    there = memory()
    if there is not None and needed > there:
        most = f"and this process may use {human_bytes(there)}"
        raise InputError(f"{what} would take {human_bytes(min(needed, 2**70))} of memory or more, {most}")


def give_back() -> None:
    """Have the C allocator give memory that is free back to the system, where it can (glibc).

    What a task leaves behind for good, such as the weights of its module, lies between the activations of its training,
    and glibc gives back by itself only what is free at the end of its heap: without this a process grows with every
    task by more than is kept. Nothing in use is touched.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
    return found
