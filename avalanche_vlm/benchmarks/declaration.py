"""What is said of a benchmark before anything is built: its facts, its options, and what it needs on the disk.

This module is light: a benchmark's code is imported when it is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from avalanche_vlm._registry import resolve
from avalanche_vlm.benchmarks.label_space import StreamKind, Visible
from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark

FROM_MODEL = ("train_transform", "eval_transform", "tokenizer")
"""Parameters of a factory that a model brings, and that are no options of the benchmark."""
KINDS: tuple[str, ...] = get_args(StreamKind)
"""Class-labelled streams, and streams of images with texts."""
FAMILIES = (
    *("picturebook", "multi-domain", "class-incremental", "domain-incremental", "time-incremental"),
    "image-text",
)
"""The embedded world, whatever the tasks of a stream in it differ in; and for published benchmarks what their tasks
differ in: the data set, the classes, the domain, or the time; or that they are images with captions."""

REQUIRED = inspect.Parameter.empty
"""The default of an option that must be given."""
CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Kinds of parameters that take whatever is given."""


def takes(factory: Callable[..., Any], option: str) -> bool:
    """Whether a function can be given an option, by name or because it takes whatever it is given.

    >>> takes(lambda path, *, seed=0: None, "seed"), takes(lambda path, **options: None, "seed")
    (True, True)
    """
    parameters = inspect.signature(factory).parameters
    return option in parameters or any(part.kind is inspect.Parameter.VAR_KEYWORD for part in parameters.values())


@dataclass(frozen=True)
class Benchmark:
    """The declaration of a benchmark: its facts, and where it is built.

    :param name: the benchmark's name, as users write it.
    :param kind: ``"classes"`` for a class-labelled stream, ``"pairs"`` for one of images with texts.
    :param summary: what the stream is, in a phrase.
    :param factory: the function that builds the stream, or where it is: ``"package.module:function"``. Its parameters
        are the benchmark's options, but for those of :data:`FROM_MODEL`.
    :param source: paper or data set that the benchmark is from.
    :param label_spaces: which classes may compete at prediction, of ``"task"``, ``"seen"`` and ``"union"``, the
        default first; empty where that is fixed.
    :param order: the option that names the tasks in their order; None where the order is fixed.
    :param family: one of :data:`FAMILIES`; empty for none of them.
    :param accepts: what options accept, in words, by their names.
    :param told: further facts by what they are called (citation, licence, how the files lie, expected counts), or a
        function that finds them when they are asked for.
    :param check: refuses options that cannot be meant, and files that are not there, without loading anything heavy.
    :param titles: the data sets whose images a stream with these options has, by their titles; None for none that are
        published.
    :param quick: options that make a first look short, with their values: what the command line takes unless it is
        asked for ``--full``. Empty where there is one size alone.
    """

    name: str
    kind: str
    summary: str
    factory: str | Callable[..., VLMBenchmark]
    source: str = ""
    label_spaces: tuple[str, ...] = ()
    order: str | None = "order"
    family: str = ""
    accepts: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = field(default_factory=dict)
    check: Callable[[Mapping[str, Any]], Any] | None = None
    titles: Callable[[Mapping[str, Any]], Collection[str]] | None = None
    quick: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.quick, Mapping) or not all(isinstance(option, str) for option in self.quick):
            raise InputError(f"benchmark {self.name!r}: quick is a mapping of options to values, not {self.quick!r}")
        if self.kind not in KINDS:
            raise InputError(f"benchmark {self.name!r}: kind is {' or '.join(KINDS)}, not {self.kind!r}")
        if self.family not in ("", *FAMILIES):
            raise InputError(f"benchmark {self.name!r}: family is one of {', '.join(FAMILIES)}, not {self.family!r}")
        spaces = (self.label_spaces,) if isinstance(self.label_spaces, str) else tuple(self.label_spaces)
        object.__setattr__(self, "label_spaces", spaces)
        if not isinstance(self.summary, str) or "\n" in self.summary:
            raise InputError(f"benchmark {self.name!r}: the summary is a phrase on one line, not {self.summary!r}")
        for space in self.label_spaces:
            if space not in get_args(Visible):
                raise InputError(f"benchmark {self.name!r}: a label space is task, seen or union, not {space!r}")

    def build(self) -> Callable[..., VLMBenchmark]:
        """The factory itself, imported if it is not yet.

        :raises InputError: if it cannot be imported.
        """
        try:
            return resolve(self.factory) if isinstance(self.factory, str) else self.factory
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"benchmark {self.name}: its factory {self.factory} cannot be had: {error}") from error

    def options(self) -> dict[str, Any]:
        """The options with their defaults; :data:`REQUIRED` for one that must be given."""
        parameters = inspect.signature(self.build()).parameters
        return {
            name: parameter.default
            for name, parameter in parameters.items()
            if name not in FROM_MODEL and parameter.kind not in CATCH_ALL
        }

    def takes(self, option: str) -> bool:
        """Whether it has an option, by name or because its factory takes whatever it is given."""
        return takes(self.build(), option)

    def as_json(self) -> dict[str, Any]:
        """All facts in plain JSON types: name, kind, family, summary, source, what else is told, label spaces (the
        default first), each option with its default, what options accept, and those that the command line takes
        otherwise unless it is asked for ``--full``."""
        told = self.told() if callable(self.told) else self.told
        options = {
            option: "required" if default is REQUIRED else list(default) if isinstance(default, tuple) else default
            for option, default in self.options().items()
        }
        return {
            "name": self.name,
            "kind": self.kind,
            "family": self.family,
            "summary": self.summary,
            "source": self.source,
            **told,
            "label_spaces": list(self.label_spaces),
            "order": self.order,
            "options": options,
            "accepts": dict(self.accepts),
            "quick": dict(self.quick),
        }
