"""What every published benchmark is: data sets below one root, options, and tasks made of both.

This module is light: a stream is built by :mod:`avalanche_vlm.benchmarks.families.building`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from avalanche_vlm._registry import resolve
from avalanche_vlm.benchmarks.datasets.declaration import DATASETS, DataFiles, DataSet, refuse_missing
from avalanche_vlm.benchmarks.declaration import FROM_MODEL, REQUIRED, Benchmark
from avalanche_vlm.benchmarks.label_space import StreamKind, Visible
from avalanche_vlm.benchmarks.options import BenchmarkOption, all_checked

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark
    from avalanche_vlm.benchmarks.sources.labelled import LabelledPart, LabelledSet

Options = Mapping[str, Any]
"""Values of all options of a benchmark, by their names."""


@dataclass(frozen=True)
class TaskPlan:
    """One task of a stream, before any image is opened.

    :param name: name of the task.
    :param classes: what its classes are told apart by, in the order of their ids within the task; a class that another
        task has as well is the same class.
    :param names: names of the classes.
    :param prompts: sentences with ``{}`` for the class name.
    :param train: training images, with ids within the task.
    :param test: test images, with ids within the task.
    """

    name: str
    classes: tuple[Hashable, ...]
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    train: LabelledPart
    test: LabelledPart


@dataclass(frozen=True, kw_only=True)
class PublishedBenchmark:
    """The declaration of a published benchmark of either kind.

    :param name: the benchmark's name, as users write it.
    :param summary: what the stream is, in a phrase.
    :param source: paper that the protocol is from, with its number on arXiv.
    :param citation: how that paper is cited.
    :param notes: what a reader of results should know of it, a sentence each: where it differs from what was published,
        and what could not be verified.
    :param split_defaults: values that options have by themselves with a split, where they are others than with the
        default one, by split and option.
    :param split_notes: what a reader should know of a split, a sentence each, by split.
    """

    family: ClassVar[str]
    kind: ClassVar[StreamKind]
    builder: ClassVar[str]
    """Where the function is that builds the stream."""
    facts: ClassVar[Mapping[str, Any]] = {}
    """What a result's protocol says of every benchmark of the family."""

    name: str
    summary: str
    source: str
    citation: str = ""
    notes: tuple[str, ...] = ()
    split_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    split_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def notes_with(self, options: Options) -> tuple[str, ...]:
        """What a reader of results should know, a sentence each.

        :param options: values of all options.
        """
        return (*self.notes, *self.split_notes.get(options.get("splits", ""), ()))

    def own_options(self) -> tuple[BenchmarkOption, ...]:
        """The options that other benchmarks need not have."""
        raise NotImplementedError

    def sets(self, options: Options) -> Sequence[DataFiles]:
        """The data sets that are read, in the order in which the tasks are made of them.

        :param options: values of all options.
        :raises InputError: for options that do not go together.
        """
        raise NotImplementedError

    def label_spaces(self) -> tuple[str, ...]:
        """Which classes may compete at prediction, the default first; none for captions."""
        return ()

    def layouts(self) -> Mapping[str, Sequence[DataFiles]]:
        """The data sets of each way to lay out the files, by the option that says which."""
        return {"": self.sets({option.name: option.default for option in self.options()})}

    def options(self) -> tuple[BenchmarkOption, ...]:
        """All options: where the files lie, the benchmark's own, and those that every benchmark has."""
        spaces = self.label_spaces()
        own = tuple(replace(option, says=option.says + self._elsewhere(option.name)) for option in self.own_options())
        return (
            BenchmarkOption("root", "text", REQUIRED, "folder that holds the data sets (--root DIR)"),
            *own,
            *(
                BenchmarkOption("label_space", "choice", first, "which classes compete at prediction", spaces)
                for first in spaces[:1]
            ),
            BenchmarkOption("seed", "number", 0, "of what is drawn, such as the images of few shots"),
            BenchmarkOption(
                "check", "choice", "fast", "how images are checked before training", ("none", "fast", "full")
            ),
            BenchmarkOption("check_workers", "number", None, "processes that check"),
            BenchmarkOption(
                "on_error",
                "choice",
                "raise",
                "whether an image that cannot be read stops the run or is passed over",
                ("raise", "skip"),
            ),
        )

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values of all options, once what can be told without opening an image is right.

        :param given: options that were given.
        :raises InputError: in one sentence, for an option that cannot be meant, and for files that are not there.
        """
        splits = given.get("splits")
        of_split = self.split_defaults.get(splits, {}) if isinstance(splits, str) else {}
        options = all_checked(self.options(), {**of_split, **given}, f"benchmark {self.name}")
        refuse_missing(self.sets(options), Path(options["root"]).expanduser())
        return options

    def _elsewhere(self, option: str) -> str:
        """The words on the values that an option has by itself with other splits."""
        others = {splits: of[option] for splits, of in self.split_defaults.items() if option in of}
        return "".join(f"; {value} by itself with splits={splits}" for splits, value in others.items())

    def stream(
        self, *, train_transform: Any = None, eval_transform: Any = None, tokenizer: Any = None, **given: Any
    ) -> VLMBenchmark:
        """Build the stream.

        :param train_transform: the model's transform of training images; CLIP's of 224 pixels by default.
        :param eval_transform: the model's transform of test images; CLIP's of 224 pixels by default.
        :param tokenizer: the model's tokenizer, for captions.
        :param given: options that were given.
        :raises InputError: in one sentence, for everything that cannot be used.
        """
        options = self.checked(given)
        built: Callable[..., VLMBenchmark] = resolve(self.builder)
        return built(self, options, train_transform, eval_transform, tokenizer)

    def told(self) -> dict[str, Any]:
        """What a user should know before looking for the files: citation, licences, layout, expected counts."""
        layouts = {}
        for which, sets in self.layouts().items():
            for name, found in {of.name: of for of in sets}.items():
                layouts[f"{which} {name}".strip()] = {
                    "files": {f"ROOT/{path}": what for path, what in found.needs.items()},
                    **found.expected(),
                    "source": found.source,
                    "licence": found.licence,
                    "notes": list(found.notes),
                }
        of_splits = (f"with splits={splits} {note}" for splits, notes in self.split_notes.items() for note in notes)
        notes = [*self.notes, *of_splits]
        return {"citation": self.citation, "notes": notes, "data_sets": layouts}

    def declared(self) -> Benchmark:
        """The benchmark for the registry."""
        factory = partial(self.stream)
        keyword = inspect.Parameter.KEYWORD_ONLY
        factory.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                *(inspect.Parameter(of.name, keyword, default=of.default) for of in self.options()),
                *(inspect.Parameter(name, keyword, default=None) for name in FROM_MODEL),
            ]
        )
        ordered = {of.name for of in self.own_options()} & {"order"}
        return Benchmark(
            self.name,
            self.kind,
            self.summary,
            factory,
            self.source,
            self.label_spaces(),
            "order" if ordered else None,
            self.family,
            {of.name: of.accepts for of in self.options()},
            self.told,
            self.checked,
            lambda given: {of.title for of in self.sets(self.checked(given))},
        )


@dataclass(frozen=True, kw_only=True)
class Classic(PublishedBenchmark):
    """The declaration of a class-labelled published benchmark.

    :param label_space: which classes compete at prediction, unless another is asked for.
    """

    kind: ClassVar[StreamKind] = "classes"
    builder: ClassVar[str] = "avalanche_vlm.benchmarks.families.building:built"

    label_space: Visible

    def label_spaces(self) -> tuple[str, ...]:
        """All that there are, the benchmark's own first."""
        return (self.label_space, *(space for space in get_args(Visible) if space != self.label_space))

    def sets(self, options: Options) -> list[DataSet]:
        """The data sets that are read, in the order in which :meth:`tasks` gets them.

        :param options: values of all options.
        :raises InputError: for options that do not go together.
        """
        raise NotImplementedError

    def tasks(self, read: Sequence[LabelledSet], options: Options) -> list[TaskPlan]:
        """The tasks in the order of the stream.

        :param read: what the data sets hold, in the order of :meth:`sets`.
        :param options: values of all options.
        :raises InputError: for options that do not fit the data sets.
        """
        raise NotImplementedError


def layouts_by_split(splits: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[DataSet]]:
    """The data sets of each split, by the option that says which; by nothing where there is one split alone.

    :param splits: names of the data sets by split.
    """
    return {
        "" if len(splits) == 1 else f"splits={split}:": [DATASETS.get(name) for name in names]
        for split, names in splits.items()
    }


def choice_of_split(splits: Collection[str], says: str) -> tuple[BenchmarkOption, ...]:
    """The option that says which split is taken; none where there is one alone.

    :param splits: the splits, the default first.
    :param says: what it decides, in a phrase.
    """
    known = tuple(splits)
    return (BenchmarkOption("splits", "choice", known[0], says, known),) if len(known) > 1 else ()


def split_in(options: Options, splits: Collection[str]) -> str:
    """The split that is taken.

    :param options: values of all options.
    :param splits: the splits, the default first.
    """
    return str(options.get("splits", next(iter(splits))))
