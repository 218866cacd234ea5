"""What a benchmark's data are, by content: digests that say whether two results were obtained on the same samples."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image

from avalanche_vlm._content import digest, digest_framed, digest_in_pieces, framed
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
_DIGITS = 16
"""Hexadecimal digits of a digest."""
_TOGETHER = 1 << 13
"""Samples whose digests are made together."""


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
    samples: list[np.ndarray] = []
    names = None if benchmark.label_space is None else benchmark.label_space.class_names
    with contents_kept():
        for name, stream in streams.items():
            parts = []
            for experience in stream:
                found = _samples(experience.dataset)
                labels = getattr(experience.dataset, "targets_task_labels", ())
                parts += [_of_digests(found), _of_numbers(map(int, experience.dataset.targets))]
                parts.append(_of_numbers(map(int, labels)))
                # Which number a class or a caption has may depend on the split: names and captions do not.
                samples.append(found if names is None else _named(found, names, experience.dataset.targets))
            content[name] = digest(parts)
        together = np.concatenate(samples or [np.zeros(0, f"S{_DIGITS}")])
        samples.clear()
        together.sort()
        content["all"] = _of_digests(together)
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
    yield _of_digests(_samples(held_out.dataset))
    yield digest(f"{int(y)}" for y in getattr(held_out.dataset, "targets", ()))


def _of_numbers(numbers: Iterable[int]) -> str:
    frames: dict[int, bytes] = {}

    def framed_ones() -> Iterator[bytes]:
        left = iter(numbers)
        while some := list(islice(left, _TOGETHER)):
            frames.update((number, framed(str(number))) for number in set(some) - frames.keys())
            yield b"".join([frames[number] for number in some])

    return digest_in_pieces(framed_ones())


def _of_digests(samples: np.ndarray) -> str:
    """The digest of digests, some of which may be empty."""
    if not (samples != b"").all():
        return digest(of.decode() for of in samples.tolist())
    return digest_in_pieces(_frames(samples[start : start + _TOGETHER]) for start in range(0, len(samples), _TOGETHER))


def _frames(samples: np.ndarray) -> bytes:
    frames = np.empty((len(samples), 8 + _DIGITS), np.uint8)
    frames[:, :8] = np.frombuffer(framed(b"0" * _DIGITS)[:8], np.uint8)
    frames[:, 8:] = np.frombuffer(samples.tobytes(), np.uint8).reshape(-1, _DIGITS)
    return frames.tobytes()


def _named(samples: np.ndarray, names: Sequence[str], targets: Iterable[int]) -> np.ndarray:
    """A digest of each sample with the name of its class, in the place of the sample's."""
    ends = [framed(name) for name in names]
    left = map(int, targets)
    for start in range(0, len(samples), _TOGETHER):
        some = samples[start : start + _TOGETHER].tolist()
        samples[start : start + _TOGETHER] = [
            digest_framed(framed(of) + ends[y]) for of, y in zip(some, left, strict=False)
        ]
    return samples


def _samples(dataset: Any) -> np.ndarray:
    """A digest of each sample of a data set before any transform, in order; empty for one that is not read. They lie in
    an array, and those of so many samples are made together: a text of its own for each takes four times as much."""
    number = size_of(dataset)
    found = np.zeros(number, f"S{_DIGITS}")
    reads = np.linspace(0, number - 1, min(number, MOST_READ), dtype=int)
    unknown: list[tuple[int, Any, int]] = []
    with _seeded():
        for source, rows, places in _sources(dataset, number):
            if hasattr(source, "contents_of"):
                for start in range(0, len(rows), _TOGETHER):
                    contents = source.contents_of(places[start : start + _TOGETHER])
                    found[rows[start : start + _TOGETHER]] = [_of_sample(content) for content in contents]
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
