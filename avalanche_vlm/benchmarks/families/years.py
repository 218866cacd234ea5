"""Benchmarks of one data set whose images come in the order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataSet
from avalanche_vlm.benchmarks.families.base import (
    Classic,
    Options,
    TaskPlan,
    choice_of_split,
    layouts_by_split,
    split_in,
)
from avalanche_vlm.benchmarks.options import BenchmarkOption
from avalanche_vlm.errors import InputError

SEEDED = 5
"""Divisions into training and test images that CLEAR's first editions have lists of."""


@dataclass(frozen=True, kw_only=True)
class Years(Classic):
    """A benchmark like CLEAR: the same classes in every bucket of time.

    :param splits: name of the data set by the edition that it is, the default first. Its parts are ``train 0``,
        ``test 0`` and so on.
    """

    family: ClassVar[str] = "time-incremental"
    facts: ClassVar[Mapping[str, Any]] = {"steps": "time"}

    splits: Mapping[str, str]

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """Edition, what is tested after a step, which division of the first edition, and shots."""
        return (
            *choice_of_split(self.splits, "which edition of the data set"),
            BenchmarkOption(
                "evaluation",
                "choice",
                "iid",
                "whether a step is tested on the test part of its own bucket (iid), or, trained on all of it, on all "
                "of the next bucket (streaming), which the next step trains on: Last and Forget are of seen samples "
                "then",
                ("iid", "streaming"),
            ),
            BenchmarkOption(
                "division", "number", 0, "which published division a first edition is read in", most=SEEDED - 1
            ),
            BenchmarkOption("shots", "number", None, "training images per class; none for all", least=1),
        )

    def layouts(self) -> Mapping[str, Sequence[DataSet]]:
        """The data set by edition."""
        return layouts_by_split({split: (name,) for split, name in self.splits.items()})

    def sets(self, options: Options) -> list[DataSet]:
        """The one data set, in the lists of the division."""
        of = DATASETS.get(self.splits[split_in(options, self.splits)])
        return [of.at("split_0", f"split_{options['division']}")]

    def tasks(self, read: Sequence[Any], options: Options) -> list[TaskPlan]:
        """A task of each bucket; with ``streaming`` of each but the last, which is tested alone.

        :raises InputError: if there is no next bucket.
        """
        from avalanche_vlm.benchmarks.sources.dated import part_name
        from avalanche_vlm.benchmarks.sources.dividing import with_classes
        from avalanche_vlm.benchmarks.sources.labelled import joined

        (of,), (found,) = self.sets(options), read
        buckets = len(found.parts) // 2
        pairs = [(found.parts[part_name("train", n)], found.parts[part_name("test", n)]) for n in range(buckets)]
        if options["evaluation"] == "streaming":
            if buckets < 2:
                raise InputError(f"benchmark {self.name}: evaluation=streaming tests on the next bucket; there is one")
            whole = [joined(train, test) for train, test in pairs]
            pairs = list(pairwise(whole))
        plans = []
        for number, (train, test) in enumerate(pairs, start=1):
            here = sorted({*train.labels.tolist(), *test.labels.tolist()})
            called = tuple(found.names[one] for one in here)
            plans.append(TaskPlan(f"bucket {number}", called, called, of.prompts, *with_classes(train, test, here)))
        return plans
