"""How much memory this process may use, and the refusal of what would take more."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from avalanche_vlm._processors import control_groups
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import human_bytes


def memory() -> int | None:
    """Bytes of memory that there are, within the limits of this process's group and of those around it; None where the
    system does not say. Swap does not count."""
    return min([*(_meminfo("MemTotal") or _physical()), *(limit for _, limit in _limits())], default=None)


def free_memory() -> int | None:
    """Bytes of memory that are to be had at present, within the limits of this process's group and of those around it;
    None where the system does not say.

    What a group uses includes the files that were read of late (the page cache), which the system drops before it
    refuses anything, as MemAvailable takes for granted: it counts as free.
    """
    free = _meminfo("MemAvailable")
    for folder, limit in _limits():
        with contextlib.suppress(OSError, ValueError):
            free.append(limit - max(0, _used(folder) - _reclaimable(folder)))
    return None if not free else max(0, min(free))


def _meminfo(name: str) -> list[int]:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return [1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])]
    return []


def _physical() -> list[int]:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
        return [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return []


def _limits() -> Iterator[tuple[Path, int]]:
    """Folders of control groups that have a limit, of either version, and the limit in bytes."""
    for controller, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        for folder in control_groups(controller):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number: there is none
                yield folder, int((folder / name).read_text())


def _used(folder: Path) -> int:
    name = "memory.current" if (folder / "memory.max").exists() else "memory.usage_in_bytes"
    return int((folder / name).read_text())


def _reclaimable(folder: Path) -> int:
    """Bytes of a group, and of those within it, that the system takes back when they are asked for."""
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    # The first version tells of a group alone, and of all within it by these longer names.
    sums = "total_" if "total_inactive_file" in stat else ""
    return sum(int(stat.get(f"{sums}{kind}", 0)) for kind in ("inactive_file", "active_file", "slab_reclaimable"))


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
