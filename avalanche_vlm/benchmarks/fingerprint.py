"""What a benchmark's data are, by content: digests that say whether two results were obtained on the same samples."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from avalanche_vlm._content import digest, digest_framed, framed
from avalanche_vlm._generators import generators_kept
from avalanche_vlm.benchmarks.context import captions_in_parts
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.places import Located, located
from avalanche_vlm.benchmarks.scenario import (
    HeldOutSet,
    ReferencePairs,
    VLMBenchmark,
    contents_at,
    describe_transform,
    size_of,
)
from avalanche_vlm.benchmarks.sources.contents import contents_kept
from avalanche_vlm.compat.data_sets import transform_steps
from avalanche_vlm.memory.settings import tensor_content

MOST_READ = 1000
"""Samples that are read, evenly spread, of a data set that does not say itself what its samples are: to read them all
may mean to decode every image."""


def data_of(benchmark: VLMBenchmark) -> dict[str, Any]:
    """Everything about the data of a benchmark that decides figures, and its path.

    Pictures that a benchmark of ours holds in memory are covered pixel by pixel, and those on disk by what
    :func:`~avalanche_vlm._content.file_digest` reads of their files, in the order of the stream, with targets, task
    labels and captions; where they lie and what the files are called does not count. Of data sets of others all targets
    count and at most :data:`MOST_READ` samples.

    :param benchmark: train and test stream, and held-out sets.
    :return: plain JSON types: the benchmark's own facts; ``content``, digests of the train and test streams, of all
        their samples whatever the split (``all``), and of the held-out sets; ``transforms`` of both streams.
    """
    streams = {"train": benchmark.train_stream, "test": benchmark.test_stream}
    content: dict[str, str] = {}
    samples: list[str] = []
    names = None if benchmark.label_space is None else benchmark.label_space.class_names
    with contents_kept():
        for name, stream in streams.items():
            parts = []
            for experience in stream:
                found = _samples(experience.dataset)
                targets = [int(y) for y in experience.dataset.targets]
                labels = [int(label) for label in getattr(experience.dataset, "targets_task_labels", ())]
                parts += [digest(found), _of_numbers(targets), _of_numbers(labels)]
                # Which number a class or a caption has may depend on the split: names and captions do not.
                samples += found if names is None else _named(found, [names[y] for y in targets])
            content[name] = digest(parts)
        content["all"] = digest(sorted(samples))
        content["held_out"] = digest(part for held_out in benchmark.held_out for part in _held_out(held_out))
    read = {"train": "train", "test": "eval"}
    transforms = {name: _transform(stream[0].dataset, read[name]) for name, stream in streams.items()}
    return {"kind": benchmark.kind, **benchmark.protocol, "content": content, "transforms": transforms}


def reference_of(reference: ReferencePairs) -> dict[str, Any]:
    """What reference pairs are.

    :param reference: pairs of images and captions.
    :return: plain JSON types: their number, their path where they were read from one, and a digest of their pictures
        and captions.
    """
    with contents_kept(), _seeded():
        pictures = (b"".join(_bytes(of)) for of in contents_at(reference.images, range(len(reference))))
        content = digest(part for pair in zip(pictures, reference.captions, strict=True) for part in pair)
    return {"pairs": len(reference), **({"path": reference.path} if reference.path else {}), "content": content}


def label_space_of(space: LabelSpace) -> str:
    """A digest of the classes, the tasks that they belong to, and their prompts, whichever of them compete.

    :param space: the label space.
    """
    return digest([*map(repr, space.prompts()), repr(space.class_names), repr(space.tasks)])


def texts_of(benchmark: VLMBenchmark) -> list[str]:
    """Texts that stand for all that a model reads of a benchmark: of every class, held-out ones too, one prompt, of
    every task's first class all prompts, and at most :data:`MOST_READ` captions, evenly spread. Reference pairs are
    left out: not every recipe uses them.

    :param benchmark: train and test stream, and held-out sets.
    """
    found: list[str] = []
    for space in (benchmark.label_space, *(held_out.label_space for held_out in benchmark.held_out)):
        if space is not None:
            prompts = space.prompts()
            found += [first for first, *_ in prompts]
            found += [text for task in space.tasks if task for text in prompts[min(task)]]
    captions = sorted({one for part, some in captions_in_parts(benchmark) if part != "reference" for one in some})
    chosen = np.linspace(0, len(captions) - 1, min(len(captions), MOST_READ), dtype=int)
    return [*found, *(captions[place] for place in chosen)]


def _held_out(held_out: HeldOutSet) -> Iterator[str]:
    yield held_out.name
    yield "" if held_out.label_space is None else label_space_of(held_out.label_space)
    yield digest(_samples(held_out.dataset))
    yield digest(f"{int(y)}" for y in getattr(held_out.dataset, "targets", ()))


def _of_numbers(numbers: Sequence[int]) -> str:
    texts = {number: str(number) for number in set(numbers)}
    return digest([texts[number] for number in numbers])


def _named(samples: Sequence[str], names: Sequence[str]) -> list[str]:
    """A digest of each sample with the name of its class."""
    ends = {name: framed(name) for name in set(names)}
    return [digest_framed(framed(of) + ends[name]) for of, name in zip(samples, names, strict=True)]


def _samples(dataset: Any) -> list[str]:
    """A digest of each sample of a data set before any transform, in order; empty for one that is not read."""
    number = size_of(dataset)
    found = [""] * number
    reads = np.linspace(0, number - 1, min(number, MOST_READ), dtype=int)
    unknown: list[tuple[int, Any, int]] = []
    with _seeded():
        for source, rows, places in _sources(dataset, number):
            if hasattr(source, "contents_of"):
                for row, content in zip(rows.tolist(), source.contents_of(places), strict=True):
                    found[row] = _of_sample(content)
            else:
                read = np.isin(rows, reads)
                unknown += ((int(row), source, int(at)) for row, at in zip(rows[read], places[read], strict=True))
    with _seeded():
        for row, source, place in sorted(unknown, key=lambda of: of[0]):
            found[row] = _of_sample(source[place])
    return found


def _sources(dataset: Any, number: int) -> Located:
    """What says what the samples are: each with which of them it knows, and their places there."""
    for source, rows, places in located(dataset, np.arange(number)):
        if not hasattr(source, "places_of"):
            yield source, rows, places
            continue
        for inner, which, at in source.places_of(places):
            yield inner, rows[which], at


def _of_sample(content: Any) -> str:
    return digest_framed(framed(content)) if isinstance(content, bytes) else digest(_bytes(content))


def _bytes(value: Any) -> list[bytes]:
    """The content of a sample, in pieces."""
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, torch.Tensor):
        return [tensor_content(value)]
    if isinstance(value, np.ndarray):
        return [f"{value.dtype.name} {list(value.shape)}".encode(), np.ascontiguousarray(value).tobytes()]
    if isinstance(value, Image.Image):
        return [f"{value.mode} {value.size}".encode(), value.tobytes()]
    if isinstance(value, str | int | float | bool | None):
        return [repr(value).encode()]
    if isinstance(value, Sequence):
        return [piece for part in value for piece in _bytes(part)]
    parts = vars(value) if hasattr(value, "__dict__") else {}
    return [type(value).__name__.encode(), *(piece for part in parts.values() for piece in _bytes(part))]


def _transform(dataset: Any, group: str) -> str:
    """A transform in words: what it says of itself, without what changes from process to process."""
    found = [describe_transform(transform) for transform in transform_steps(dataset, group)]
    return ", ".join(found) or "none"


@contextmanager
def _seeded() -> Iterator[None]:
    """Data sets and sequences of images of others may draw at random as they are read: the same every time, and none
    of the run's."""
    with generators_kept():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield
