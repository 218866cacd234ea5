"""Parts of a benchmark: fewer training data for pilots, fewer test samples to score them on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch.utils.data import Subset

from avalanche_vlm.benchmarks.scenario import HeldOutSet, VLMBenchmark, size_of


def share_of(benchmark: VLMBenchmark, share: float, seed: int) -> VLMBenchmark:
    """A benchmark with a share of every task's training data, in equal parts over its classes; all else stays. A
    smaller share is part of a larger one.

    :param benchmark: the stream to take a part of.
    :param share: share of the training data to keep, in (0, 1].
    :param seed: seed of the choice, 0 or more.
    """
    if share >= 1:
        return benchmark
    rng = np.random.default_rng(seed)

    def fewer(data: Any) -> Any:
        return _balanced(data, max(2, round(share * len(data))), rng)

    return _with(benchmark, map(fewer, _data(benchmark.train_stream)), _data(benchmark.test_stream), benchmark.held_out)


def scored_on_fewer(benchmark: VLMBenchmark, seed: int, most: int) -> VLMBenchmark:
    """A benchmark with at most so many test samples per task, in equal parts over its classes, and twice as many of
    class-labelled held-out sets. Captions stay, for R@1 among fewer is another figure.

    :param benchmark: the stream to take a part of.
    :param seed: seed of the choice, 0 or more.
    :param most: number of test samples per task, at most.
    """
    rng, held_out = np.random.default_rng(seed), []
    for part in benchmark.held_out:
        number = size_of(part.dataset)
        if part.label_space is not None and number > 2 * most:
            rows = sorted(rng.permutation(number)[: 2 * most].tolist())
            part = HeldOutSet(part.name, Subset(part.dataset, rows), part.label_space)
        held_out.append(part)
    tests = [
        data if benchmark.kind == "pairs" or len(data) <= most else _balanced(data, most, rng)
        for data in _data(benchmark.test_stream)
    ]
    return _with(benchmark, _data(benchmark.train_stream), tests, held_out)


def balanced_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order of which every beginning holds classes alike, as far as there are samples.

    >>> [int(i) for i in np.array([0, 0, 0, 1])[balanced_order(np.array([0, 0, 0, 1]), np.random.default_rng(0))][2:]]
    [0, 0]
    """
    shuffled = rng.permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    counts: dict[Any, int] = {}
    for index in shuffled:
        rank[index] = counts.get(labels[index], 0)
        counts[labels[index]] = rank[index] + 1
    return shuffled[np.argsort(rank[shuffled], kind="stable")]


def _balanced(data: Any, number: int, rng: np.random.Generator) -> Any:
    order = balanced_order(np.array([int(y) for y in data.targets]), rng)
    return data.subset(sorted(order[:number].tolist()))


def _data(stream: Iterable[Any]) -> list[Any]:
    return [experience.dataset for experience in stream]


def _with(benchmark: VLMBenchmark, train: Iterable[Any], test: Iterable[Any], held_out: Any) -> VLMBenchmark:
    """The same benchmark of other data."""
    return VLMBenchmark(
        benchmark.name,
        benchmark.kind,
        list(train),
        list(test),
        label_space=benchmark.label_space,
        task_names=benchmark.task_names,
        held_out=held_out,
        reference=benchmark.reference,
        generator=benchmark.generator,
        data=benchmark.data,
        protocol=benchmark.protocol,
    )
