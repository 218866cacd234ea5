"""Benchmarks of one data set that comes in batches of new circumstances, with one test set for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataSet
from avalanche_vlm.benchmarks.families.base import Classic, Options, TaskPlan
from avalanche_vlm.benchmarks.options import BenchmarkOption

RUNS = 10
"""Orders of the batches that CORe50 has lists of."""


@dataclass(frozen=True, kw_only=True)
class Sessions(Classic):
    """A benchmark like CORe50's new instances.

    Its one test set is divided among the tasks, every so-manyth image to each, so that no image is tested more than
    once after a step and the mean over tasks is the accuracy on all of it.

    :param dataset: name of the data set, whose parts are ``train 0``, ``train 1`` and so on, and ``test``, and whose
        paths have ``run0`` where another run has its number.
    :param categories: names of what so many classes each are kinds of, in the order of the class ids.
    """

    family: ClassVar[str] = "domain-incremental"

    dataset: str
    categories: tuple[str, ...]

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """Order of the batches, what is told apart, and shots."""
        return (
            BenchmarkOption("run", "number", 0, "which of the published orders of the batches", most=RUNS - 1),
            BenchmarkOption(
                "classes",
                "choice",
                "objects",
                "whether objects or their kinds are told apart",
                ("objects", "categories"),
            ),
            BenchmarkOption("shots", "number", None, "training images per class; none for all", least=1),
        )

    def sets(self, options: Options) -> list[DataSet]:
        """The one data set, in the lists of the run."""
        return [DATASETS.get(self.dataset).at("run0", f"run{options['run']}")]

    def tasks(self, read: Sequence[Any], options: Options) -> list[TaskPlan]:
        """A task of each batch."""
        from avalanche_vlm.benchmarks.sources.dividing import with_classes

        (of,), (found,) = self.sets(options), read
        names, parts = list(found.names), found.parts
        if options["classes"] == "categories":
            each = of.classes // len(self.categories)
            names = list(self.categories)
            parts = {part: replace(images, labels=images.labels // each) for part, images in parts.items()}
        trained = [part for part in parts if part != "test"]
        plans = []
        for number, part in enumerate(trained):
            test = parts["test"].at(range(number, len(parts["test"]), len(trained)))
            here = sorted({*parts[part].labels.tolist(), *test.labels.tolist()})
            called = tuple(names[one] for one in here)
            plans.append(
                TaskPlan(f"batch {number}", called, called, of.prompts, *with_classes(parts[part], test, here))
            )
        return plans

    def told(self) -> dict[str, Any]:
        """What a user should know, and what the classes are kinds of."""
        known: Mapping[str, Any] = super().told()
        return {**known, "categories": list(self.categories)}
