"""Pilots that nobody trained, and a clock that a test moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from avalanche_vlm.studies.advice.pilot import Pilot

TASKS, TESTS = 3, 100


def entry(**facts: Any) -> dict[str, Any]:
    """A ledger entry of something that costs nothing, but for what is given."""
    return {
        "stored_ram_bytes": 0,
        "raw_user_data_kept": False,
        "reference_pairs_needed": False,
        "generator_needed": False,
        "task_id_needed": False,
        "reversible": True,
        "artifacts": [],
        "train_seconds": 1.0,
        **facts,
    }


def pilot(
    recipe: str,
    last: float,
    kept: float = 0.0,
    *,
    share: float = 0.25,
    seconds: float = 1.0,
    stored: int = 0,
    tests: int = TESTS,
    **facts: Any,
) -> Pilot:
    """A pilot with that Last and change of zero-shot, in percent and points, to the next sample."""
    right = np.zeros(tests)
    right[: round(tests * last / 100)] = 1
    change = np.zeros(1000)
    change[: round(abs(kept) * 10)] = np.sign(kept)
    tasks = tuple(right.copy() for _ in range(TASKS))
    return Pilot(recipe, share, tasks, {"captions": change}, entry(**facts), seconds, stored)


class World:
    """What recipes would come to, told pilot by pilot, while a clock runs.

    :param last: by recipe, or by recipe and share.
    :param speed: seconds of a pilot on all data, by recipe, 100 where nothing is said.
    :param facts: further arguments of :func:`pilot`, by recipe.
    """

    def __init__(
        self,
        last: Mapping[str, float | Callable[[float], float]],
        speed: Mapping[str, float] | None = None,
        facts: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        self.last, self.speed, self.facts = last, speed or {}, facts or {}
        self.now = 0.0
        self.ran: list[tuple[str, float]] = []

    def clock(self) -> float:
        return self.now

    def run(self, recipe: str, share: float, deadline: float) -> Pilot:
        from avalanche_vlm.studies.advice.halving import OutOfTime

        takes = self.speed.get(recipe, 100.0) * share
        if self.now + takes > deadline:
            self.now = deadline
            raise OutOfTime
        self.now += takes
        self.ran.append((recipe, share))
        last = self.last[recipe]
        last = last(share) if callable(last) else last
        facts = {"train_seconds": takes, **self.facts.get(recipe, {})}
        return pilot(recipe, last, share=share, seconds=takes, **facts)
