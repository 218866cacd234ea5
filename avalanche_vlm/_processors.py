"""How many processors this process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")
"""Where Linux tells the limits of this process's group."""


def cores() -> int:
    """Processors that this process may use, as far as the system says: by its affinity and its group's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = (GROUP / "cpu.max").read_text().split()
        allowed = min(allowed, max(1, int(quota) // int(period)))  # "max" is no number: there is no quota
    return allowed
