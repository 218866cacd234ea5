"""Benchmarks of images with captions whose tasks are steps in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from avalanche_vlm.benchmarks.datasets.declaration import PAIR_SETS, PairSet
from avalanche_vlm.benchmarks.families.base import Options, choice_of_split, split_in
from avalanche_vlm.benchmarks.families.image_text import PairPlan, PairStream
from avalanche_vlm.benchmarks.options import BenchmarkOption

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.sources.captioned import CaptionedSet


@dataclass(frozen=True, kw_only=True)
class DatedPairs(PairStream):
    """A benchmark like TiC-CLIP's: pairs of one data set, one step of years after another.

    :param splits: name of the set of pairs by what is tested, the default first.
    """

    family: ClassVar[str] = "time-incremental"
    facts: ClassVar[Mapping[str, Any]] = {"steps": "time"}

    members: tuple[str, ...] = ()
    splits: Mapping[str, str]

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """What is tested after a step, and how many captions of an image train."""
        return (*choice_of_split(self.splits, "what a step is tested on"), *super().own_options())

    def layouts(self) -> Mapping[str, Sequence[PairSet]]:
        """The set of pairs by what is tested."""
        return {split: (PAIR_SETS.get(name),) for split, name in self.splits.items()}

    def sets(self, options: Options) -> list[PairSet]:
        """The one set of pairs."""
        return [PAIR_SETS.get(self.splits[split_in(options, self.splits)])]

    def plans(self, read: Sequence[CaptionedSet], options: Options) -> list[PairPlan]:
        """A task of each step; of a set without test parts, some pairs of each step are drawn from the seed."""
        (found,) = read
        few, seed = options["captions"], options["seed"]
        return [
            PairPlan(step, train.few_captions(few, seed), test, drawn=drawn)
            for step, (train, test, drawn) in found.steps(seed).items()
        ]
