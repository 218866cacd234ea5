"""What a recipe must not cost, and what it costs to run it every day."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.advice.pilot import Pilot
from avalanche_vlm.studies.attribution.bootstrap import PairedBootstrap
from avalanche_vlm.units import human_bytes

KEEPS_RAW_DATA = "keeps samples of the user's, which is not allowed"


def may_keep_raw_data(plugins: Sequence[str]) -> str:
    """Why a recipe is out of whose plugins nobody knows what they keep, in a sentence.

    :param plugins: names of these plugins' classes.

    >>> print(may_keep_raw_data(["ReplayPlugin"]))
    may keep samples of the user's, which is not allowed: ReplayPlugin does not declare what it keeps
    """
    who = "does not declare what it keeps" if len(plugins) < 2 else "do not declare what they keep"
    return f"may keep samples of the user's, which is not allowed: {' and '.join(plugins) or 'a plugin'} {who}"


@dataclass(frozen=True)
class Constraints:
    """The user's.

    :param max_bytes: bytes that may be stored on all data, RAM and disk together; None for no limit.
    :param raw_data: whether samples of the user's may be kept.
    :param task_id: whether the sample's task may be asked for at prediction.
    :param max_train_seconds: seconds that training on all data may take; None for no limit.
    :param keep_zero_shot: points that the held-out sets may lose on average; None for no limit.
    :raises InputError: for a limit that is negative or no number.
    """

    max_bytes: int | None = None
    raw_data: bool = True
    task_id: bool = True
    max_train_seconds: float | None = None
    keep_zero_shot: float | None = 2.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_train_seconds", "keep_zero_shot"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise InputError(f"the constraint {name.replace('_', ' ')} is 0 or more, not {value}")

    @property
    def least_kept(self) -> float:
        """Change on the held-out sets that is allowed, in points: 0 or below."""
        return -math.inf if self.keep_zero_shot is None else -self.keep_zero_shot

    def budgeted(self, settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe's options, with its memory within the limit.

        :param settings: the recipe's options and their defaults.
        :param options: the options that differ from their defaults.
        """
        if self.max_bytes is None or "max_bytes" not in settings:
            return dict(options)
        budget = options.get("max_bytes", settings["max_bytes"])
        if budget is not None and budget <= self.max_bytes:
            return dict(options)
        return {**options, "max_bytes": max(1, self.max_bytes)}

    def broken_by(self, pilot: Pilot, seconds: float) -> str | None:
        """Why a recipe is out after its pilot, in a sentence, or None. What it keeps of zero-shot counts as broken only
        beyond the interval of the samples; until then :meth:`score` takes it into account.

        :param seconds: estimated seconds of training on all data.
        """
        ledger = pilot.ledger
        if not self.raw_data and ledger["raw_user_data_kept"]:
            return KEEPS_RAW_DATA
        if not self.raw_data and ledger["raw_user_data_kept"] is None:
            return may_keep_raw_data(ledger["undeclared_plugins"])
        if not self.task_id and ledger["task_id_needed"]:
            return "needs the task id at prediction, which must not be asked for"
        if self.max_bytes is not None and pilot.full_bytes > self.max_bytes:
            return f"stores {human_bytes(pilot.full_bytes)}, and {human_bytes(self.max_bytes)} are allowed"
        if self.max_train_seconds is not None and seconds > self.max_train_seconds:
            return f"would train about {seconds:.0f} s on all data, and {self.max_train_seconds:g} s are allowed"
        if pilot.kept and (kept := kept_interval(pilot))[1] < self.least_kept:
            lost = f"loses {-kept[1]:.1f} to {-kept[0]:.1f} points on held-out sets"
            return f"{lost}, and {self.keep_zero_shot:g} are allowed"
        return None

    def meets(self, pilot: Pilot) -> bool:
        """Whether it keeps zero-shot by its mean."""
        return pilot.zero_shot_kept >= self.least_kept

    def missed_by(self, pilot: Pilot) -> str | None:
        """Why a recipe that has run to the end is not recommended all the same, in a sentence, or None."""
        if self.meets(pilot):
            return None
        return (
            f"loses {-pilot.zero_shot_kept:.2f} points on held-out sets in the mean, and {self.keep_zero_shot:g} are "
            "allowed; the samples do not exclude that it loses no more"
        )

    def score(self, pilot: Pilot) -> float:
        """What pilots are ranked by: Last, less what is lost of zero-shot beyond the limit, in points."""
        return pilot.last - max(0.0, self.least_kept - pilot.zero_shot_kept)


def kept_interval(pilot: Pilot) -> tuple[float, float]:
    """Interval of :attr:`~avalanche_vlm.studies.advice.pilot.Pilot.zero_shot_kept` over held-out samples, in points;
    nothing where nothing was measured."""
    if not pilot.kept:
        return 0.0, 0.0
    found = resampling(map(len, pilot.kept.values())).mean(100 * np.concatenate(list(pilot.kept.values())))
    return found.low, found.high


def resampling(groups: Iterable[int]) -> PairedBootstrap:
    """One bootstrap for all figures over the same samples.

    :param groups: samples in each.
    """
    return _resampling(tuple(groups))


@lru_cache(4)
def _resampling(groups: tuple[int, ...]) -> PairedBootstrap:
    return PairedBootstrap(groups, draws=1000)


def total_cost(ledger: Mapping[str, Any]) -> int:
    """The operational cost in one figure: the sum of its parts.

    :param ledger: the recipe's entry in the ledger.
    """
    return sum(operational_cost(ledger).values())


def operational_cost(ledger: Mapping[str, Any]) -> dict[str, int]:
    """The parts of the operational cost, which are added up: artifacts that have versions, and one for each of
    reference pairs, a generator, samples of the user's (or plugins of which nobody knows), the task id at prediction
    and a pretrained model that cannot be had back by switching something off.
    """
    return {
        "artifacts": len(ledger["artifacts"]),
        "reference pairs": int(ledger["reference_pairs_needed"]),
        "generator": int(ledger["generator_needed"]),
        "raw data": int(ledger["raw_user_data_kept"] is not False),
        "task id": int(ledger["task_id_needed"]),
        "not reversible": int(not ledger["reversible"]),
    }
