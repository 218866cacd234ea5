"""Benchmarks of images with captions whose tasks are steps in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from avalanche_vlm.benchmarks.datasets.declaration import PAIR_SETS, PairSet
from avalanche_vlm.benchmarks.families.base import Options, choice_of_split, split_in
from avalanche_vlm.benchmarks.families.image_text import PairPlan, PairStream
from avalanche_vlm.benchmarks.options import BenchmarkOption

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.sources.captioned import CaptionedSet


@dataclass(frozen=True, kw_only=True)
class DatedPairs(PairStream):
    """A benchmark like TiC-CLIP's: pairs of one data set, one step in time after another.

    :param splits: name of the set of pairs by what is tested, the default first.
    :param monthly: name of the set of pairs by what is tested, with steps of months; none where there are none.
    :param yearly_notes: what a reader should know of steps of years alone, a sentence each, by split.
    """

    family: ClassVar[str] = "time-incremental"
    facts: ClassVar[Mapping[str, Any]] = {"steps": "time"}

    members: tuple[str, ...] = ()
    splits: Mapping[str, str]
    monthly: Mapping[str, str] = field(default_factory=dict)
    yearly_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """How long a step is, what is tested after it, and how many captions of an image train."""
        lengths = ("year", "month")
        length = BenchmarkOption("step_length", "choice", lengths[0], "what is a step in time", lengths)
        return (
            *(length for _ in range(bool(self.monthly))),
            *choice_of_split(self.splits, "what a step is tested on"),
            *super().own_options(),
        )

    def notes_with(self, options: Options) -> tuple[str, ...]:
        """What a reader of results should know, a sentence each.

        :param options: values of all options.
        """
        yearly = () if _by_month(options) else self.yearly_notes.get(split_in(options, self.splits), ())
        return (*super().notes_with(options), *yearly)

    def layouts(self) -> Mapping[str, Sequence[PairSet]]:
        """The set of pairs by what is tested."""
        months = {f"step_length=month {split}": name for split, name in self.monthly.items()}
        return {which: (PAIR_SETS.get(name),) for which, name in {**self.splits, **months}.items()}

    def sets(self, options: Options) -> list[PairSet]:
        """The one set of pairs."""
        by_split = self.monthly if _by_month(options) else self.splits
        return [PAIR_SETS.get(by_split[split_in(options, self.splits)])]

    def plans(self, read: Sequence[CaptionedSet], options: Options) -> list[PairPlan]:
        """A task of each step; of a set without test parts, some pairs of each step are drawn from the seed."""
        (found,) = read
        few, seed = options["captions"], options["seed"]
        return [
            PairPlan(step, train.few_captions(few, seed), test, drawn=drawn)
            for step, (train, test, drawn) in found.steps(seed).items()
        ]


def _by_month(options: Options) -> bool:
    return options.get("step_length") == "month"
