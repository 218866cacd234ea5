"""Benchmarks by name: what there is, what each is, and how one is built for a model.

A benchmark is one declaration here (or in a distribution of yours, as an entry point of the group
``avalanche_vlm.benchmarks``), and the command line, :func:`create_benchmark` and the lists take it from there. This
module is light: a benchmark's code is imported when it is described or built.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Protocol

from avalanche_vlm._registry import Registry
from avalanche_vlm.benchmarks.declaration import CATCH_ALL, FAMILIES, FROM_MODEL, KINDS, Benchmark, takes
from avalanche_vlm.benchmarks.picturebook.declarations import PICTUREBOOK
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean

if TYPE_CHECKING:
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark


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


BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark", Benchmark, "avalanche_vlm.benchmarks", "avalanche_vlm.benchmarks.classic", PICTUREBOOK
)


def register_benchmark(
    name: str, *, kind: str, summary: str, **facts: Any
) -> Callable[[Callable[..., VLMBenchmark]], Callable[..., VLMBenchmark]]:
    """Register the decorated function as the factory of a benchmark.

    :param name: the benchmark's name, as users write it.
    :param kind: ``"classes"`` or ``"pairs"``.
    :param summary: what the stream is, in a phrase.
    :param facts: further fields of :class:`~avalanche_vlm.benchmarks.declaration.Benchmark`.
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


def benchmark_names(kind: str | None = None, family: str | None = None) -> list[str]:
    """The names of the benchmarks, those of other distributions last.

    :param kind: only streams of this kind, ``"classes"`` or ``"pairs"``; all by default.
    :param family: only benchmarks of this family, such as ``"class-incremental"``; all by default.
    :return: names for :func:`create_benchmark`.
    :raises InputError: for a kind or a family that there is not.

    >>> benchmark_names(kind="pairs", family="picturebook")
    ['picturebook-pairs']
    """
    if kind is None and family is None:
        return BENCHMARKS.names()
    if kind not in (None, *KINDS):
        raise InputError(f"kind is {' or '.join(KINDS)}, not {kind!r}")
    if family not in (None, *FAMILIES):
        raise InputError(f"family is one of {', '.join(FAMILIES)}, not {family!r}")
    return [of.name for of in BENCHMARKS if kind in (None, of.kind) and family in (None, of.family)]


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
    :return: name, kind, family, summary, source, label spaces (the default first), and each option with its default.
    :raises InputError: if there is none of that name.
    """
    return get_benchmark(name).as_json()


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
            own = [name for name in named if name not in FROM_MODEL]
            known = ", ".join(own) or "none"
            raise InputError(f"{called} has no option {option!r}{did_you_mean(option, own)}; it has {known}")
    of_model = {}
    if model is not None:
        brought = (model.transforms.train, model.transforms.eval, model.tokenizer)
        of_model = {name: part for name, part in zip(FROM_MODEL, brought, strict=True) if name in parameters}
    given = {**of_model, **options}
    for name, parameter in named.items():
        if name not in given and parameter.default is inspect.Parameter.empty and parameter.kind not in CATCH_ALL:
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
