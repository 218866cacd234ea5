"""How many processors this process may use, and whether a launcher has started others beside it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath

GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells the limits of control groups."""

OWN = Path("/proc/self/cgroup")
"""Where it tells which of them this process is in."""


def cores() -> int:
    """Processors that this process may use, as far as the system says: by its affinity and its group's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in control_groups(""):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            allowed = min(allowed, max(1, int(quota) // int(period)))  # "max" is no number: there is no quota
    return allowed


def launched() -> int:
    """How many processes a launcher such as ``torchrun`` has started this one among; 1 where none has."""
    told = os.environ.get("WORLD_SIZE", "")
    return int(told) if told.isdigit() and os.environ.get("RANK", "").isdigit() else 1


def launched_as() -> int:
    """Which of them this one is, from 0 on."""
    return int(os.environ["RANK"]) if launched() > 1 else 0


def machine_load() -> float | None:
    """Processes that ran or waited for a processor over the last minute, in the mean and on all of the machine; None
    where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def crowded(threads: int, busy: float | None = None, processors: int | None = None) -> str | None:
    """What to expect of threads that find no processor: each waits for the slowest at every operation.

    :param threads: threads that are to work, 1 or more.
    :param busy: processors that others keep busy; None for what the system tells.
    :param processors: processors of the machine; None for what the system tells.
    :return: the sentence; None where there is room.

    >>> crowded(2, busy=0.3, processors=2), crowded(1, busy=5.0, processors=2)
    (None, None)
    >>> crowded(2, busy=1.2, processors=2)
    'other processes keep 1.2 of 2 processors busy, and 2 threads wait for each other there: try --threads 1'
    """
    busy = machine_load() if busy is None else busy
    processors = processors or os.cpu_count() or 1
    if busy is None or threads < 2 or busy < 0.8 or busy + threads < processors + 0.8:
        return None
    room = max(1, min(threads - 1, int(processors - busy)))
    return (
        f"other processes keep {busy:.1f} of {processors} processors busy, and {threads} threads wait for each other "
        f"there: try --threads {room}"
    )


def control_groups(controller: str) -> list[Path]:
    """Folders of this process's control group and of all around it, the outermost first: each has limits of its own.

    In a container its own group may be the root, and the path that the system tells be one of the host's: folders that
    are not there tell nothing.

    :param controller: name of a controller of the first version of control groups, such as ``"memory"``; empty for the
        second version, where one group has them all.
    """
    root = GROUP / controller
    path = PurePosixPath()
    with contextlib.suppress(OSError, ValueError):
        for line in OWN.read_text().splitlines():
            number, names, of = line.split(":", 2)
            if controller in names.split(",") and (controller or number == "0"):
                path = PurePosixPath(of.lstrip("/"))
    if ".." in path.parts:  # a group outside of those that can be seen from here
        return [root]
    return [
        root,
        *(root / part for part in reversed(path.parents) if part.parts),
        *([root / path] if path.parts else []),
    ]
