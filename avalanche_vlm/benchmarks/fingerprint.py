"""What a benchmark's data are, by content: digests that say whether two results were obtained on the same samples."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

from avalanche_vlm._content import digest
from avalanche_vlm._generators import generators_kept
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.scenario import (
    HeldOutSet,
    ReferencePairs,
    VLMBenchmark,
    content_at,
    describe_transform,
    size_of,
)
from avalanche_vlm.benchmarks.sources.contents import contents_kept
from avalanche_vlm.compat import located, transform_steps
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
                targets = [f"{int(y)}" for y in experience.dataset.targets]
                labels = [f"{int(label)}" for label in getattr(experience.dataset, "targets_task_labels", ())]
                parts += [digest(found), digest(targets), digest(labels)]
                # Which number a class or a caption has may depend on the split: names and captions do not.
                samples += (
                    found
                    if names is None
                    else [digest([of, names[int(y)]]) for of, y in zip(found, targets, strict=True)]
                )
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
    pictures = (b"".join(_bytes(content_at(reference.images, i))) for i in range(len(reference)))
    with contents_kept():
        content = digest(part for pair in zip(pictures, reference.captions, strict=True) for part in pair)
    return {"pairs": len(reference), **({"path": reference.path} if reference.path else {}), "content": content}


def label_space_of(space: LabelSpace) -> str:
    """A digest of the classes, the tasks that they belong to, and their prompts, whichever of them compete.

    :param space: the label space.
    """
    return digest([*map(repr, space.prompts()), repr(space.class_names), repr(space.tasks)])


def _held_out(held_out: HeldOutSet) -> Iterator[str]:
    yield held_out.name
    yield "" if held_out.label_space is None else label_space_of(held_out.label_space)
    yield digest(_samples(held_out.dataset))
    yield digest(f"{int(y)}" for y in getattr(held_out.dataset, "targets", ()))


def _samples(dataset: Any) -> list[str]:
    """A digest of each sample of a data set before any transform, in order; empty for one that is not read."""
    number, found = size_of(dataset), []
    reads = set(np.linspace(0, number - 1, min(number, MOST_READ), dtype=int).tolist())
    with _seeded():
        for row in range(number):
            source, index = located(dataset, row)
            if hasattr(source, "place_of"):
                source, index = source.place_of(index)
            known = getattr(source, "content_of", None)
            read = known is not None or row in reads
            found.append(digest(_bytes(known(index) if known else source[index])) if read else "")
    return found


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
    """A data set of others may transform at random as it is read: the same draw every time, and none of the run's."""
    with generators_kept():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield
