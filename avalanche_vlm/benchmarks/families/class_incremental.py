"""Benchmarks that bring the classes of one data set a few at a time."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from avalanche_vlm.units import did_you_mean

DRAWN = ("numpy-SEED", "python-SEED")
"""Orders that are drawn: by ``numpy.random.seed`` and ``permutation``, and by Python's ``random.seed`` and
``shuffle``."""


@dataclass(frozen=True, kw_only=True)
class ClassIncremental(Classic):
    """A benchmark whose tasks are classes of one data set.

    :param splits: name of the data set by the split that it has, the default first.
    :param classes: number of classes that are taken, the first ones.
    :param base: classes of the first task; 0 for as many as the others have.
    :param increment: classes of each further task.
    :param class_order: order of the classes by default: a name of ``orders``, ``natural``, or one of :data:`DRAWN`
        with a number in the place of ``SEED``.
    :param orders: fixed orders of class ids by their names.
    :param prompts: sentences with ``{}`` for the class name by the paper that has them, the default first; ``own``
        stands for those of the data set, and is the default where there are none.
    """

    family: ClassVar[str] = "class-incremental"

    splits: Mapping[str, str]
    classes: int
    base: int = 0
    increment: int
    class_order: str = "numpy-1993"
    orders: Mapping[str, Sequence[int]]
    prompts: Mapping[str, tuple[str, ...]]

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """Split, sizes of the tasks, order of the classes, prompts and shots."""
        prompts = tuple(dict.fromkeys((*self.prompts, "own", "plain")))
        return (
            *choice_of_split(self.splits, "whose split of the data set"),
            BenchmarkOption(
                "base", "number", self.base, "classes of the first task, 0 for as many as others", most=self.classes
            ),
            BenchmarkOption(
                "increment", "number", self.increment, "classes of each further task", least=1, most=self.classes
            ),
            BenchmarkOption(
                "class_order", "classes", self.class_order, "order of the classes", (*self.orders, "natural", *DRAWN)
            ),
            BenchmarkOption("prompts", "choice", prompts[0], "whose sentences go around a class name", prompts),
            BenchmarkOption("shots", "number", None, "training images per class; none for all", least=1),
        )

    def layouts(self) -> Mapping[str, Sequence[DataSet]]:
        """The data set by split."""
        return layouts_by_split({split: (name,) for split, name in self.splits.items()})

    def sets(self, options: Options) -> list[DataSet]:
        """The one data set.

        :raises InputError: for an order of the classes that there is not.
        """
        self.ordered(options["class_order"])
        return [DATASETS.get(self.splits[split_in(options, self.splits)])]

    def tasks(self, read: Sequence[Any], options: Options) -> list[TaskPlan]:
        """Tasks of some classes each, in the order of the classes."""
        from avalanche_vlm.benchmarks.sources.dividing import train_and_test, with_classes

        (of,), (found,) = self.sets(options), read
        train, test = train_and_test(found)
        there = {*train.labels.tolist(), *test.labels.tolist()}
        order = [number for number in self.ordered(options["class_order"]) if number in there]
        base, increment = options["base"] or options["increment"], options["increment"]
        if not order or len(order) < base or (len(order) - base) % increment:
            raise InputError(
                f"benchmark {self.name}: {len(order)} classes cannot be a task of {base} and further ones of "
                f"{increment}: give other base and increment"
            )
        prompts = {**self.prompts, "own": of.prompts, "plain": ("{}",)}[options["prompts"]]
        parts = [order[:base], *(order[at : at + increment] for at in range(base, len(order), increment))]
        return [
            TaskPlan(
                f"classes {number}",
                tuple(part),
                tuple(found.names[one] for one in part),
                prompts,
                *with_classes(train, test, part),
            )
            for number, part in enumerate(parts, start=1)
        ]

    def ordered(self, asked: str | Sequence[int]) -> list[int]:
        """The class ids in their order.

        :param asked: name of an order, or the ids.
        :raises InputError: for a name that is none, and ids that are not those of the classes.
        """
        numbers = list(range(self.classes))
        if not isinstance(asked, str):
            if sorted(asked) != numbers:
                raise InputError(f"benchmark {self.name}: class_order has each of 0 to {self.classes - 1} once")
            return list(asked)
        if asked in self.orders:
            return list(self.orders[asked])
        if asked == "natural":
            return numbers
        drawn = re.fullmatch(r"(numpy|python)-(\d{1,9})", asked)
        if drawn is None:
            known = ", ".join((*self.orders, "natural", *DRAWN))
            near = did_you_mean(asked, (*self.orders, "natural"))
            raise InputError(f"benchmark {self.name}: class_order is one of {known}, or class ids, not {asked!r}{near}")
        if drawn[1] == "numpy":
            from numpy.random import RandomState

            return [int(number) for number in RandomState(int(drawn[2])).permutation(self.classes)]
        random.Random(int(drawn[2])).shuffle(numbers)
        return numbers
