"""Benchmarks by name: what there is, what each is, and how one is built for a model.

A benchmark is one declaration here (or in a distribution of yours, as an entry point of the group
``avalanche_vlm.benchmarks``), and the command line, :func:`create_benchmark` and the lists take it from there. This
module is light: a benchmark's code is imported when it is described or built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Protocol, get_args

from avalanche_vlm._registry import Registry, resolve
from avalanche_vlm.benchmarks.label_space import StreamKind, Visible
from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark

FROM_MODEL = ("train_transform", "eval_transform", "tokenizer")
"""Parameters of a factory that a model brings, and that are no options of the benchmark."""
KINDS: tuple[str, ...] = get_args(StreamKind)
"""Class-labelled streams, and streams of images with texts."""


_CATCH_ALL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class TransformPair(Protocol):
    """The image transforms of a model: with its augmentation for training, without for evaluation."""

    @property
    def train(self) -> Callable[[Any], Any]:
        """The transform of training images."""
        ...

    @property
    def eval(self) -> Callable[[Any], Any]:
        """The transform of images that are evaluated."""
        ...


class Reader(Protocol):
    """What reads the samples of a benchmark: a model, as far as a benchmark knows it."""

    @property
    def transforms(self) -> TransformPair:
        """The image transforms."""
        ...

    @property
    def tokenizer(self) -> Callable[..., Any]:
        """The function from texts to tokens."""
        ...


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
    """

    name: str
    kind: str
    summary: str
    factory: str | Callable[..., VLMBenchmark]
    source: str = ""
    label_spaces: tuple[str, ...] = ()
    order: str | None = "order"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"benchmark {self.name!r}: kind is {' or '.join(KINDS)}, not {self.kind!r}")
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
        """The options with their defaults; :data:`inspect.Parameter.empty` for one that must be given."""
        parameters = inspect.signature(self.build()).parameters
        return {
            name: parameter.default
            for name, parameter in parameters.items()
            if name not in FROM_MODEL and parameter.kind not in _CATCH_ALL
        }

    def takes(self, option: str) -> bool:
        """Whether it has an option, by name or because its factory takes whatever it is given."""
        return takes(self.build(), option)


BENCHMARKS: Registry[Benchmark] = Registry("benchmark", Benchmark, "avalanche_vlm.benchmarks")


def register_benchmark(
    name: str, *, kind: str, summary: str, **facts: Any
) -> Callable[[Callable[..., VLMBenchmark]], Callable[..., VLMBenchmark]]:
    """Register the decorated function as the factory of a benchmark.

    :param name: the benchmark's name, as users write it.
    :param kind: ``"classes"`` or ``"pairs"``.
    :param summary: what the stream is, in a phrase.
    :param facts: further fields of :class:`Benchmark`.
    :return: a decorator that leaves the function as it is.
    :raises InputError: if the name is taken, or a fact is none.
    """

    def decorate(factory: Callable[..., VLMBenchmark]) -> Callable[..., VLMBenchmark]:
        BENCHMARKS.add(Benchmark(name, kind, summary, factory, **facts))
        return factory

    known = [fact.name for fact in fields(Benchmark)]
    for fact in facts:
        if fact not in known:
            raise InputError(f"benchmark {name!r}: {fact!r} is no fact of a benchmark; there are {', '.join(known)}")
    return decorate


def benchmark_names(kind: str | None = None) -> list[str]:
    """The names of the benchmarks, those of other distributions last.

    :param kind: only streams of this kind, ``"classes"`` or ``"pairs"``; all by default.
    :return: names for :func:`create_benchmark`.

    >>> benchmark_names(kind="pairs")
    ['picturebook-pairs']
    """
    if kind is None:
        return BENCHMARKS.names()
    if kind not in KINDS:
        raise InputError(f"kind is {' or '.join(KINDS)}, not {kind!r}")
    return [benchmark.name for benchmark in BENCHMARKS if benchmark.kind == kind]


def get_benchmark(name: str) -> Benchmark:
    """The declaration of a benchmark.

    :param name: one of :func:`benchmark_names`.
    :return: declaration of that benchmark.
    :raises InputError: if there is none of that name.
    """
    return BENCHMARKS.get(name)


def describe_benchmark(name: str) -> dict[str, Any]:
    """All facts of a benchmark, in plain JSON types.

    :param name: one of :func:`benchmark_names`.
    :return: name, kind, summary, source, label spaces (the default first), and each option with its default.
    :raises InputError: if there is none of that name.
    """
    benchmark = get_benchmark(name)
    return {
        "name": benchmark.name,
        "kind": benchmark.kind,
        "summary": benchmark.summary,
        "source": benchmark.source,
        "label_spaces": list(benchmark.label_spaces),
        "order": benchmark.order,
        "options": {
            option: "required" if default is inspect.Parameter.empty else _plain(default)
            for option, default in benchmark.options().items()
        },
    }


def create_benchmark(name: str, *, model: Reader | None = None, **options: Any) -> VLMBenchmark:
    """Build a benchmark.

    :param name: one of :func:`benchmark_names`.
    :param model: the model whose transforms and tokenizer read the samples; by default the benchmark's own are taken.
    :param options: parameters of the benchmark's factory, such as ``seed`` and sizes; a transform or tokenizer among
        them goes before the model's.
    :return: the benchmark that was built.
    :raises InputError: in one sentence, for a name or an option that does not exist, and for unusable values.
    """
    return call_factory(f"benchmark {name}", get_benchmark(name).build(), model=model, **options)


def call_factory(
    called: str, factory: Callable[..., VLMBenchmark], *data: Any, model: Reader | None = None, **options: Any
) -> VLMBenchmark:
    """Call a function that builds a stream, with what a model brings and options that it has.

    :param called: what has the options, at the beginning of a sentence.
    :param factory: function that builds the stream.
    :param data: positional arguments of the function.
    :param model: the model whose transforms and tokenizer are given, as far as the function takes them.
    :param options: named arguments, which go before the model's.
    :return: the stream that was built.
    :raises InputError: for an option that the function does not have, and for unusable values.
    """
    parameters = inspect.signature(factory).parameters
    named = dict(list(parameters.items())[len(data) :])
    for option in options:
        if option in named and not _fits(options[option], named[option].annotation):
            raise InputError(f"{called} takes {named[option].annotation} as {option}, not {options[option]!r}")
        if not takes(factory, option):
            known = ", ".join(name for name in named if name not in FROM_MODEL) or "none"
            raise InputError(f"{called} has no option {option!r}; it has {known}")
    of_model = {}
    if model is not None:
        brought = (model.transforms.train, model.transforms.eval, model.tokenizer)
        of_model = {name: part for name, part in zip(FROM_MODEL, brought, strict=True) if name in parameters}
    given = {**of_model, **options}
    for name, parameter in named.items():
        if name not in given and parameter.default is inspect.Parameter.empty and parameter.kind not in _CATCH_ALL:
            raise InputError(f"{called} needs the option {name!r}")
    try:
        return factory(*data, **given)
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{called} cannot be built: {' '.join(str(error).split())}") from error


_SIMPLE = {"int": Integral, "float": Real, "bool": bool, "str": str, "None": type(None)}


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is what a simple annotation says; one that says more is the factory's own to check.

    >>> _fits(2.5, "int"), _fits(None, "str | None"), _fits(3, "Sequence[str]"), _fits(True, "int")
    (False, True, True, False)
    """
    written = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    kinds = [_SIMPLE.get(part.strip()) for part in written.split("|")]
    if None in kinds or (isinstance(value, bool) and bool not in kinds):
        return None in kinds
    return isinstance(value, tuple(kind for kind in kinds if kind))


def takes(factory: Callable[..., Any], option: str) -> bool:
    """Whether a function can be given an option, by name or because it takes whatever it is given.

    >>> takes(lambda path, *, seed=0: None, "seed"), takes(lambda path, **options: None, "seed")
    (True, True)
    """
    parameters = inspect.signature(factory).parameters
    return option in parameters or any(part.kind is inspect.Parameter.VAR_KEYWORD for part in parameters.values())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_STREAMS = "avalanche_vlm.benchmarks.picturebook.streams"
_DRAWN = "drawn from a seed; no download"
_ANY = get_args(Visible)

for _benchmark in (
    Benchmark(
        "picturebook",
        "classes",
        "eight tasks, each an attribute in a shifted style, real handwritten digits among them",
        f"{_STREAMS}:mtil_like",
        _DRAWN + ", with scikit-learn's digits; in the manner of MTIL (arXiv 2303.06628)",
        _ANY,
    ),
    Benchmark(
        "picturebook-classes",
        "classes",
        "twenty objects as graffiti, some new ones per experience",
        f"{_STREAMS}:class_incremental",
        _DRAWN,
        ("seen", "task", "union"),
        None,
    ),
    Benchmark(
        "picturebook-domains",
        "classes",
        "the same ten shapes in one style after another",
        f"{_STREAMS}:domain_incremental",
        _DRAWN,
        order="domains",
    ),
    Benchmark(
        "picturebook-pairs",
        "pairs",
        "fully captioned scenes in one style after another, scored by retrieval within each task",
        f"{_STREAMS}:pairs",
        _DRAWN,
        order="domains",
    ),
    Benchmark(
        "picturebook-time",
        "classes",
        "the same ten shapes month after month, while one style slowly gives way to the next",
        f"{_STREAMS}:time_incremental",
        _DRAWN + "; in the manner of TiC-CLIP (arXiv 2310.16226)",
        order=None,
    ),
):
    BENCHMARKS.add(_benchmark)
