"""Benchmarks of several data sets, a task each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, PHOTO, DataSet
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


@dataclass(frozen=True, kw_only=True)
class MultiDomain(Classic):
    """A benchmark whose tasks are data sets.

    :param splits: names of the data sets by the splits that they have, the default first. The titles of the data sets
        are the names of the tasks.
    :param orders: titles of the data sets in the order of the tasks, by the order's name, the default first.
    :param prompts: which sentences go around the class names by default: ``"all"`` of a data set, ``"first"`` of them,
        ``"photo"``, CLIP's one for all, or ``"plain"``, nothing but the name.
    :param wording: what stands around a data set's class names in every prompt, by its title: ``'number: "{}"'``.
    :param shots: training images per class by default; None for all.
    """

    family: ClassVar[str] = "multi-domain"
    same_classes: ClassVar[bool] = False
    """Whether classes of one name are one class, whichever classes compete."""

    splits: Mapping[str, tuple[str, ...]]
    orders: Mapping[str, tuple[str, ...]]
    prompts: str = "all"
    wording: Mapping[str, str] = field(default_factory=dict)
    shots: int | None = None

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """Order, splits, prompts, shots, and what is done with equal names."""
        orders = tuple(self.orders)
        prompts = (self.prompts, *(of for of in ("all", "first", "photo", "plain") if of != self.prompts))
        return (
            BenchmarkOption("order", "names", orders[0], "the tasks in their order, or a part of them", orders),
            *choice_of_split(self.splits, "whose splits of the data sets"),
            BenchmarkOption("shots", "number", self.shots, "training images per class; none for all", least=1)
            if self.shots is None
            else BenchmarkOption("shots", "number", self.shots, "training images per class, 0 for all"),
            BenchmarkOption("prompts", "choice", prompts[0], "which sentences go around a class name", prompts),
            BenchmarkOption(
                "equal_names",
                "choice",
                "merge",
                "whether equal class names of two data sets are one class where both compete, or are kept apart by "
                "the data set's title",
                ("merge", "apart"),
            ),
        )

    def layouts(self) -> Mapping[str, Sequence[DataSet]]:
        """The data sets by splits."""
        return layouts_by_split(self.splits)

    def sets(self, options: Options) -> list[DataSet]:
        """The data sets of the tasks that are asked for."""
        names = self.splits[split_in(options, self.splits)]
        known = {of.title: of for of in map(DATASETS.get, names)}
        order = options["order"]
        titles = self.orders[order] if isinstance(order, str) and order in self.orders else order
        # The splits of other people may have a title of their own for a data set.
        spelled = {title.lower().rstrip("s"): title for title in known}
        found = []
        for title in (titles,) if isinstance(titles, str) else titles:
            of = known.get(spelled.get(title.lower().rstrip("s"), ""))
            if of is None:
                near = did_you_mean(title, known)
                raise InputError(f"benchmark {self.name} has no task called {title!r}{near}; it has {', '.join(known)}")
            if of in found:
                raise InputError(f"benchmark {self.name}: order names task {title!r} more than once")
            found.append(of)
        return found

    def tasks(self, read: Sequence[Any], options: Options) -> list[TaskPlan]:
        """A task of each data set, with the classes of which there are images."""
        from avalanche_vlm.benchmarks.sources.dividing import train_and_test, with_classes

        sets, apart = self.sets(options), options["label_space"] == "task" and not self.same_classes
        named = []
        for of, found in zip(sets, read, strict=True):
            train, test = train_and_test(found)
            here = sorted({*train.labels.tolist(), *test.labels.tolist()})
            around = self.wording.get(of.title, "{}")
            named.append((of, [around.replace("{}", found.names[c]) for c in here], with_classes(train, test, here)))
        shared = Counter(name for _, names, _ in named for name in set(names))
        plans = []
        for number, (of, names, (train, test)) in enumerate(named):
            if options.get("equal_names") == "apart" and not apart:
                names = [f"{name} ({of.title})" if shared[name] > 1 else name for name in names]
            within: Counter[str] = Counter()
            keys = []
            for name in names:  # within a data set every class is one of its own
                keys.append((number if apart else -1, within[name], name))
                within[name] += 1
            sentences = {"all": of.prompts, "first": of.prompts[:1], "photo": PHOTO, "plain": ("{}",)}
            prompts = sentences[options["prompts"]]
            plans.append(TaskPlan(of.title, tuple(keys), tuple(names), prompts, train, test))
        return plans
