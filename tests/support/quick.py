"""Which recipes stand for all where a check over all of them takes long."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

QUICK = ("fine-tune", "replay", "zscl", "lora", "wise-ft", "ranpac", "l2p")
"""One of each family, and one of each kind of state: samples, references, modules, weights, heads, prompts."""

LESS: dict[str, dict[str, Any]] = {
    "gift": {"n": 16},
    "lwf-vr": {"sentences": 16},
    "ewc-clip": {"samples": 8},
    "adapter-per-task": {"bottleneck": 8},
    "moe-adapters": {"experts": 4, "bottleneck": 8},
    "rail-primal": {"hidden": 32},
    "ranpac": {"hidden": 32},
    "lada": {"units": 2, "bottleneck": 4},
    "proof": {"exemplars": 3},
}
"""Options with which recipes are quick on 16 samples a task."""


def slow_but_for_some(cases: Iterable[Any], quick: Collection[Any] = QUICK) -> list[Any]:
    """Parameters of a test, those that do not stand for the others marked as slow.

    :param cases: names (of recipes, for example), or tuples that begin with one.
    :param quick: names that stand for the others.
    """
    found = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        found.append(pytest.param(*values, marks=[] if values[0] in quick else [pytest.mark.slow]))
    return found
