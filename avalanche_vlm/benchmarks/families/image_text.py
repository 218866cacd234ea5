"""Benchmarks of images with captions: one data set, several, or consecutive parts of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from avalanche_vlm.benchmarks.datasets.declaration import PAIR_SETS, PairSet
from avalanche_vlm.benchmarks.families.base import Options, PublishedBenchmark
from avalanche_vlm.benchmarks.label_space import StreamKind
from avalanche_vlm.benchmarks.options import BenchmarkOption
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.sources.captioned import CaptionedPart, CaptionedSet


@dataclass(frozen=True)
class PairPlan:
    """One task of captions, before any image is opened.

    :param name: name of the task.
    :param train: training images with captions.
    :param test: test images with captions.
    :param valid: validation images with captions; None for none.
    :param drawn: places of the test images among those of the task, where they are drawn from a seed; None where a file
        says which they are.
    """

    name: str
    train: CaptionedPart
    test: CaptionedPart
    valid: CaptionedPart | None = None
    drawn: list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class PairStream(PublishedBenchmark):
    """A benchmark of images with captions.

    :param members: names of the data sets.
    :param orders: titles of the data sets in the order of the tasks, by the order's name, the default first; empty for
        the order of ``members``.
    :param phases: number of consecutive parts of equal size, each a task, that the training images of a data set are
        cut into, by its title. Every one of them is tested on the whole test part.
    """

    family: ClassVar[str] = "image-text"
    kind: ClassVar[StreamKind] = "pairs"
    builder: ClassVar[str] = "avalanche_vlm.benchmarks.families.pair_building:built_pairs"

    members: tuple[str, ...]
    orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    phases: Mapping[str, int] = field(default_factory=dict)

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """The order where there are several data sets, and how many captions of an image train."""
        orders = tuple(self.orders)
        order = BenchmarkOption(
            "order", "names", orders[0] if orders else None, "the data sets in their order, or some of them", orders
        )
        captions = BenchmarkOption(
            "captions", "number", None, "training captions per image, drawn; none for all", least=1
        )
        return (*(order for _ in self.members[1:2]), captions)

    def sets(self, options: Options) -> list[PairSet]:
        """The data sets that are asked for.

        :param options: values of all options.
        :raises InputError: for an order that names what there is not, or one twice.
        """
        known = {of.title: of for of in map(PAIR_SETS.get, self.members)}
        order = options.get("order")
        titles = self.orders[order] if isinstance(order, str) and order in self.orders else order or tuple(known)
        found = []
        for title in (titles,) if isinstance(titles, str) else titles:
            of = {name.lower(): each for name, each in known.items()}.get(title.lower())
            if of is None:
                there = f"{did_you_mean(title, known)}; it has {', '.join(known)}"
                raise InputError(f"benchmark {self.name} has no data set called {title!r}{there}")
            if of in found:
                raise InputError(f"benchmark {self.name}: order names {title!r} more than once")
            found.append(of)
        return found

    def plans(self, read: Sequence[CaptionedSet], options: Options) -> list[PairPlan]:
        """The tasks in the order of the stream.

        :param read: what the data sets hold, in the order of :meth:`sets`.
        :param options: values of all options.
        :raises InputError: for a data set with fewer images than phases.
        """
        plans = []
        for of, found in zip(self.sets(options), read, strict=True):
            train, test = found.halves()
            train = train.few_captions(options["captions"], options["seed"])
            number = self.phases.get(of.title)
            if number is None:
                plans.append(PairPlan(of.title, train, test, found.parts.get("valid")))
                continue
            files = train.files()
            if len(files) < number:
                raise InputError(f"{of.summary} has {len(files)} training images, too few for {number} phases")
            bounds = [len(files) * phase // number for phase in range(number + 1)]
            plans += [
                PairPlan(f"{of.title} {phase}", train.of_files(files[first:last]), test)
                for phase, (first, last) in enumerate(pairwise(bounds), start=1)
            ]
        return plans
