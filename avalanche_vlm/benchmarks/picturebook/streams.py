"""Streams of the picturebook as Avalanche benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset

from avalanche_vlm._memory import refuse_beyond
from avalanche_vlm._numbers import NUMBERS
from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.benchmarks.label_space import Visible, join_tasks
from avalanche_vlm.benchmarks.picturebook import captions, scenes
from avalanche_vlm.benchmarks.picturebook.generator import PicturebookGenerator
from avalanche_vlm.benchmarks.picturebook.held_out import held_out_sets, reference_pairs
from avalanche_vlm.benchmarks.picturebook.render import render, to_uint8
from avalanche_vlm.benchmarks.picturebook.scenes import DIGITS, SHAPES
from avalanche_vlm.benchmarks.picturebook.styles import STYLES
from avalanche_vlm.benchmarks.picturebook.tasks import MTIL_LIKE, TEMPLATES, RealDigits, Task, classes_by, generator
from avalanche_vlm.benchmarks.picturebook.view import Reading
from avalanche_vlm.benchmarks.scenario import ImageDataset, PairDataset, VLMBenchmark, as_experience_data
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean

PICTURE_BYTES = 3 * 32 * 32
"""Memory that a picture takes as long as its stream is there."""

DOMAINS = ("sketch", "night", "faded", "mosaic", "negative")
"""Styles of the domain-incremental stream, in order."""
FASHIONS = ("sketch", "night", "negative")
"""Styles of the time-incremental stream, in the order in which they come and go."""


def mtil_like(
    seed: int = 0,
    *,
    n_train: int = 640,
    n_test: int = 250,
    label_space: Visible = "task",
    order: Sequence[str] | None = None,
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """Eight tasks, each an attribute in a shifted style, real handwritten digits among them.

    :param seed: seed of the pictures; the same seed gives the same bytes.
    :param n_train: training pictures per task, at most 1,397 (the real digits').
    :param n_test: test pictures per task, at most 400.
    :param label_space: which classes compete: ``"task"`` (MTIL), ``"seen"`` or ``"union"`` (X-TAIL).
    :param order: names of the tasks in the order of the stream, or a part of them.
    :param train_transform: the model's transform of training pictures; by default the picturebook's own, which the tiny
        model shares.
    :param eval_transform: the model's transform of test pictures; by default the picturebook's own.
    :param tokenizer: the model's tokenizer, which the held-out captions go through; by default the picturebook's own.
    :param n_held_out: captions in the held-out retrieval set.
    :param n_reference: pairs in the reference set.
    :raises InputError: if ``order`` names a task that does not exist, or one twice.
    """
    tasks = _ordered(MTIL_LIKE, order)
    reading = Reading.of(train_transform, eval_transform, tokenizer)
    sizes = Sizes(n_train, n_test, n_held_out, n_reference)
    return _classes("picturebook-mtil", tasks, label_space, seed, sizes, reading)


def class_incremental(
    seed: int = 0,
    *,
    n_experiences: int = 5,
    n_train: int = 640,
    n_test: int = 250,
    label_space: Visible = "seen",
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """Twenty objects (shapes and printed digits) as graffiti, some new ones per experience.

    :param n_experiences: a divisor of 20. The other parameters are those of :func:`mtil_like`.
    :raises InputError: if it is not one.
    """
    NUMBERS["n_experiences"].checked(n_experiences)
    objects = generator(0, "class order").permutation(len(SHAPES) + len(DIGITS))
    if len(objects) % n_experiences:
        raise InputError(f"20 classes cannot be split evenly into {n_experiences} experiences")
    parts = objects.reshape(n_experiences, -1)
    tasks = [
        Task(f"objects {i + 1}", classes_by("object", part), TEMPLATES["object"], "graffiti", {"pattern": 0})
        for i, part in enumerate(parts)
    ]
    reading = Reading.of(train_transform, eval_transform, tokenizer)
    sizes = Sizes(n_train, n_test, n_held_out, n_reference)
    return _classes("picturebook-classes", tasks, label_space, seed, sizes, reading)


def domain_incremental(
    seed: int = 0,
    *,
    domains: Sequence[str] = DOMAINS,
    n_train: int = 640,
    n_test: int = 250,
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """The same ten shapes in one style after another.

    :param domains: names of styles. The other parameters are those of :func:`mtil_like`.
    :raises InputError: for an unknown style, or one that comes twice.
    """
    _check_names(domains, STYLES, "style")
    shapes = classes_by("object", range(len(SHAPES)))
    tasks = [Task(domain, shapes, TEMPLATES["object"], domain) for domain in domains]
    reading = Reading.of(train_transform, eval_transform, tokenizer)
    sizes = Sizes(n_train, n_test, n_held_out, n_reference)
    return _classes("picturebook-domains", tasks, "union", seed, sizes, reading)


def time_incremental(
    seed: int = 0,
    *,
    n_experiences: int = 8,
    styles: Sequence[str] = FASHIONS,
    n_train: int = 640,
    n_test: int = 250,
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """The same ten shapes, month after month, while one style slowly gives way to the next: a stream without borders,
    in the manner of TiC-CLIP (arXiv 2310.16226). Every month is a mixture of two styles at most.

    :param n_experiences: months, at least two. The first has the first style alone, the last the last.
    :param styles: their names, two at least. The other parameters are those of :func:`mtil_like`.
    :raises InputError: for an unknown style, one that comes twice, or too few months or styles.
    """
    _check_names(styles, STYLES, "style")
    if NUMBERS["n_experiences"].checked(n_experiences) < 2 or len(styles) < 2:
        raise InputError("a drift over time takes at least two experiences and two styles")
    shapes = classes_by("object", range(len(SHAPES)))
    tasks = []
    for month in range(n_experiences):
        # Exact arithmetic: a month that has one style alone must not draw a stray picture of another.
        before, rest = divmod(month * (len(styles) - 1), n_experiences - 1)
        turning = (styles[before + 1], rest / (n_experiences - 1)) if rest else None
        tasks.append(Task(f"month {month + 1}", shapes, TEMPLATES["object"], styles[before], turning=turning))
    reading = Reading.of(train_transform, eval_transform, tokenizer)
    sizes = Sizes(n_train, n_test, n_held_out, n_reference)
    return _classes("picturebook-time", tasks, "union", seed, sizes, reading)


def pairs(
    seed: int = 0,
    *,
    domains: Sequence[str] = DOMAINS,
    n_train: int = 640,
    n_test: int = 250,
    train_transform: Callable | None = None,
    eval_transform: Callable | None = None,
    tokenizer: Callable | None = None,
    n_held_out: int = 1000,
    n_reference: int = 1000,
) -> VLMBenchmark:
    """Fully captioned scenes in one style after another: an image-text stream, scored by retrieval within each task.

    The parameters are those of :func:`domain_incremental`; test captions are distinct.
    """
    _check_names(domains, STYLES, "style")
    reading = Reading.of(train_transform, eval_transform, tokenizer)
    sizes = Sizes(n_train, n_test, n_held_out, n_reference)
    train: list[AvalancheDataset] = []
    test: list[AvalancheDataset] = []
    identities = Identities()
    for t, domain in enumerate(domains):
        for split, n, part in (("train", sizes.train, train), ("test", sizes.test, test)):
            rng = generator(seed, "pairs", domain, split)
            drawn = scenes.distinct_scenes(rng, n, held_out=split == "test")
            pictures = to_uint8(STYLES[domain](render(drawn, rng), rng))
            data = PairDataset(torch.from_numpy(pictures), captions.caption(drawn), identities)
            part.append(as_experience_data(data, reading.train_pairs(), reading.test_pairs(), t))
    return VLMBenchmark(
        "picturebook-pairs",
        "pairs",
        train,
        test,
        task_names=tuple(domains),
        held_out=held_out_sets(seed, sizes.held_out, reading.test, reading.tokenizer),
        reference=reference_pairs(seed, sizes.reference, reading.test),
        generator=PicturebookGenerator(),
        protocol={"seed": seed, **sizes.facts(), "order": list(domains)},
    )


@dataclass(frozen=True)
class Sizes:
    """How much of everything a stream holds, as far as :data:`~avalanche_vlm._numbers.NUMBERS` lets it.

    :param train: number of training pictures per task.
    :param test: number of test pictures per task.
    :param held_out: number of captions in the held-out retrieval set.
    :param reference: number of pairs in the reference set.
    """

    train: int
    test: int
    held_out: int
    reference: int

    def __post_init__(self) -> None:
        for name, number in list(vars(self).items()):
            NUMBERS[f"n_{name}"].checked(number, f"n_{name} of the picturebook")
            object.__setattr__(self, name, int(number))  # numpy's are no JSON

    def facts(self) -> dict[str, int]:
        """The sizes as the streams' parameters are called, for a result's protocol."""
        return {f"n_{name}": number for name, number in vars(self).items()}


def _classes(
    name: str, tasks: Sequence[Task | RealDigits], visible: Visible, seed: int, sizes: Sizes, reading: Reading
) -> VLMBenchmark:
    space = join_tasks([(t.name, t.class_names, t.templates) for t in tasks], visible)
    pictures_of = sizes.train + sizes.test
    refuse_beyond(len(tasks) * pictures_of * PICTURE_BYTES, f"{len(tasks)} tasks of {pictures_of:,} pictures")
    streams: dict[str, list[AvalancheDataset]] = {"train": [], "test": []}
    for t, task in enumerate(tasks):
        ids = np.array(space.tasks[t])
        for split, n in zip(streams, (sizes.train, sizes.test), strict=True):
            pictures, labels = task.draw(n, seed, split)
            data = ImageDataset(torch.from_numpy(pictures), ids[labels].tolist())
            streams[split].append(as_experience_data(data, reading.train, reading.test, t))
    return VLMBenchmark(
        name,
        "classes",
        streams["train"],
        streams["test"],
        label_space=space,
        task_names=[t.name for t in tasks],
        held_out=held_out_sets(seed, sizes.held_out, reading.test, reading.tokenizer),
        reference=reference_pairs(seed, sizes.reference, reading.test),
        generator=PicturebookGenerator(),
        protocol={"seed": seed, **sizes.facts(), "order": [t.name for t in tasks]},
    )


def _ordered(tasks: Sequence[Task | RealDigits], order: Sequence[str] | None) -> list[Task | RealDigits]:
    by_name = {task.name: task for task in tasks}
    _check_names(order or (), by_name, "task")
    return [by_name[name] for name in order or by_name]


def _check_names(given: Sequence[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise InputError(f"no {what} is called {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
        # Seeded by its name, a task that comes twice would bring the very same pictures, test and training alike.
        if list(given).count(name) > 1:
            raise InputError(f"the order names {what} {name!r} more than once")
