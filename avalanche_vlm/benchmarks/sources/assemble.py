"""What streams from a folder and from a table share: skipping, splitting, assembling."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from avalanche.benchmarks.utils import AvalancheDataset

from avalanche_vlm.benchmarks.context import note_cut_captions
from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates, StreamKind, Visible, join_tasks
from avalanche_vlm.benchmarks.scenario import (
    DataReport,
    ImageDataset,
    PairDataset,
    PairTransform,
    VLMBenchmark,
    as_experience_data,
)
from avalanche_vlm.benchmarks.sources.checking import Check, unreadable_files
from avalanche_vlm.benchmarks.sources.class_names import UNNAMED, Chosen, untested_classes, warned_of
from avalanche_vlm.benchmarks.sources.images import ImageFiles
from avalanche_vlm.benchmarks.sources.items import PARTS, Coded, Items, numbers_once, places_by_number
from avalanche_vlm.benchmarks.sources.manifest import Files, look_at
from avalanche_vlm.benchmarks.sources.ordering import sorted_labels
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.same_images import same_rows, shared
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean

TRAIN, TEST = PARTS.index("train"), PARTS.index("test")
"""The numbers of these splits."""


class Readable(NamedTuple):
    """Samples whose images can be read.

    :param items: the samples; the paths of their images, each once, are in the order in which they come first.
    :param files: what the system says of these images.
    """

    items: Items
    files: Files


def readable(
    items: Items, problems: Problems, data: Path, check: Check = "full", workers: int | None = None
) -> Readable:
    """The samples whose images can be read; the others are problems.

    :param items: samples of all tasks.
    :param problems: takes what is wrong with samples.
    :param data: folder or table of the data set, whose manifest says which files were checked before.
    :param check: how images are checked (:func:`~avalanche_vlm.benchmarks.sources.checking.unreadable_files`).
    :param workers: processes that check; None for one a processor.
    """
    items = _in_order_of_images(items)
    images = items.image.values
    files = look_at(images)
    wrong = unreadable_files(images, data, check, workers, problems.on_error == "raise", files)
    if not wrong:
        return Readable(items, files)
    bad = np.array([image in wrong for image in images], dtype=bool)
    for row in np.flatnonzero(bad[items.image.codes]).tolist():
        problems.add(f"{items.where(row)}{wrong[items[row].image]}")
    return Readable(_in_order_of_images(items.at(~bad[items.image.codes])), files.at(~bad))


def _in_order_of_images(items: Items) -> Items:
    """The samples with those images alone that one of them has, in the order in which they come first."""
    paths, codes = items.image.values, items.image.codes
    used = items.image.used()
    if len(used) == len(paths) and (used[1:] > used[:-1]).all():
        return items
    place = np.zeros(len(paths), codes.dtype)
    place[used] = np.arange(len(used), dtype=codes.dtype)
    return replace(items, image=Coded(paths.at(used), place[codes]))


def split_indices(n: int, test_fraction: float, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """A random split of ``n`` indices with at least one on either side.

    :param n: number of items, at least 2.
    :param test_fraction: share of the items that is kept for testing, in (0, 1).
    :return: train and test indices, each in order.
    """
    order = rng.permutation(n)
    n_test = min(n - 1, max(1, round(test_fraction * n)))
    return sorted(order[n_test:].tolist()), sorted(order[:n_test].tolist())


def split_items(seen: Readable, test_fraction: float, seed: int, by_class: bool, problems: Problems) -> Items:
    """Give every sample without a split one: stratified by task, and by class if asked.

    Images are split and not rows: one with several captions, classes, tasks or copies is on one side, and where a
    sample of it has a split, on that side. A group's split depends on its members and the seed only, unless another
    group has images of it too, so that the same seed tests the same images in every task order.

    :param seen: samples with what the system says of their images.
    :param problems: a class (or task) with a single image cannot be split; its notes take what images are on two sides.
    :return: the samples that have a split then, those that had one before all others.
    """
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction lies between 0 and 1, not {test_fraction}")
    if seed < 0:
        raise InputError(f"seed is a whole number from 0, not {seed}")
    items = seen.items
    stands = same_rows(items.image.values, seen.files)
    split, order = _split(items, stands, test_fraction, seed, by_class, problems)
    found = replace(items, split=split).at(order)
    del split, order  # of a million samples, before more is made of them
    problems.notes += shared(found, stands, by_class)
    return found


def _split(
    items: Items, stands: np.ndarray, test_fraction: float, seed: int, by_class: bool, problems: Problems
) -> tuple[np.ndarray, np.ndarray]:
    """The splits of all samples, and the places of those that have one, in their order."""
    paths = items.image.values
    done, undone = np.flatnonzero(items.split), np.flatnonzero(items.split == 0)
    sides = np.zeros(len(paths), np.uint8)
    sides[stands[items.image.codes[done]]] = items.split[done]
    texts = len(items.text.values) if by_class else 1
    keys = items.task.codes[undone].astype(np.min_scalar_type(len(items.task.values) * texts)) * texts
    if by_class:
        keys += items.text.codes[undone]
    groups = {
        (items.task.values[key // texts], items.text.values[key % texts] if by_class else ""): undone[places]
        for key, places in places_by_number(keys).items()
    }
    for (task, text), members in sorted(groups.items(), key=lambda group: group[0]):
        images = numbers_once(stands[items.image.codes[members]])
        if len(images) < 2:  # nothing but copies: each counts for itself, which the notes say
            images = numbers_once(items.image.codes[members])
        if len(images) < 2:
            what = f"class {text!r} of task {task!r}" if by_class else f"task {task!r}"
            problems.add(f"{what} has one usable image ({paths[images[0]]}), which cannot be split in train and test")
            continue
        rng = np.random.default_rng([seed, zlib.crc32(f"{task}\0{text}".encode(errors="surrogatepass"))])
        free = images[sides[images] == 0]
        if len(free) == len(images):
            test = images[split_indices(len(images), test_fraction, rng)[1]]
        else:
            tested = int((sides[images] == TEST).sum())
            wanted = min(len(images) - 1, max(1, round(test_fraction * len(images)))) - tested
            test = free[rng.permutation(len(free))[: max(0, wanted)]]
        sides[free] = TRAIN
        sides[test] = TEST
    split = items.split.copy()
    own = items.image.codes[undone]
    split[undone] = np.where(sides[own] > 0, sides[own], sides[stands[own]])
    order = np.concatenate([done, *groups.values()])
    return split, order[split[order] > 0]


def in_order(found: Sequence[str], order: Sequence[str] | None) -> list[str]:
    """The names of ``order``, checked, or those found."""
    chosen = list(order or ())
    for name in chosen:
        if name not in found:
            raise InputError(
                f"there is no task called {name!r}{did_you_mean(name, found)}; there are {', '.join(found)}"
            )
        if chosen.count(name) > 1:
            raise InputError(f"order names task {name!r} more than once")
    return chosen or list(found)


def assemble(
    name: str,
    kind: StreamKind,
    items: Items,
    tasks: Sequence[str],
    *,
    train_transform: Callable,
    eval_transform: Callable,
    tokenizer: Callable | None,
    templates: PromptTemplates,
    label_space: Visible,
    problems: Problems,
    protocol: dict[str, Any],
    names: Chosen = UNNAMED,
    jpeg_draft: bool = False,
    chosen: dict[str, list[int]] | None = None,
) -> VLMBenchmark:
    """A benchmark of items that all have a split.

    :param name: name of the benchmark.
    :param kind: ``"classes"`` where an item's text is its class name, ``"pairs"`` where it is a caption.
    :param items: samples of all tasks and splits.
    :param tasks: names of the tasks, in the order of the stream.
    :param train_transform: the model's transform of training images, PIL image to tensor.
    :param eval_transform: the model's transform of test images, PIL image to tensor.
    :param tokenizer: the model's tokenizer, for pairs.
    :param templates: prompts around the class names.
    :param label_space: which classes compete.
    :param problems: what was left out on the way, which goes into the benchmark's report.
    :param protocol: what else decides the stream: path, seed and split.
    :param names: names of classes by their texts; a text that is missing names its class itself.
    :param jpeg_draft: whether JPEG files are decoded no larger than the model's input takes (:func:`drafted`).
    :param chosen: places of the training samples that were drawn for few shots, by task.
    :raises InputError: if a task lacks train or test samples.
    """
    parts, splits = _parts(items, tasks, problems)
    draft = drafted(eval_transform) if jpeg_draft else None
    if jpeg_draft:
        protocol = {**protocol, "jpeg_draft": draft}
    space: LabelSpace | None = None
    if kind == "pairs":
        if tokenizer is None:
            raise InputError(f"{name} is a stream of captions: give the model's tokenizer")
        train, test = PairTransform(train_transform, tokenizer), PairTransform(eval_transform, tokenizer)
        streams = _pairs(parts, tasks, train, test, draft, problems)
    else:
        classes = {t: _class_texts(parts, t) for t in tasks}
        named = [(t, [names.names.get(text, text) for text in classes[t]], templates) for t in tasks]
        space = join_tasks(named, label_space)
        tested = {t: parts[t, "test"].texts() for t in tasks}
        problems.notes += [*names.notes, *untested_classes(classes, tested, names), *warned_of(space)]
        protocol = {**protocol, "class_names": names.source}
        streams = _classes(parts, classes, space, train_transform, eval_transform, draft, problems)
    counts = {f"n_{s}": [len(parts[t, s]) for t in tasks] for s in splits}
    benchmark = VLMBenchmark(
        name,
        kind,
        streams["train"],
        streams["test"],
        label_space=space,
        task_names=list(tasks),
        further={s: streams[s] for s in splits if s not in ("train", "test")},
        data=DataReport(problems.skipped, problems.notes, chosen=chosen or {}, passed_over=problems.passed_over),
        protocol={**protocol, **counts, "order": list(tasks)},
    )
    if tokenizer is not None:
        note_cut_captions(benchmark, tokenizer)
    return benchmark


Parts = Mapping[tuple[str, str], Items]
"""Samples by task and split."""

Streams = dict[str, list[AvalancheDataset]]
"""Data sets of all tasks, by split."""


def _parts(items: Items, tasks: Sequence[str], problems: Problems) -> tuple[Parts, list[str]]:
    """The samples by task and split, and the splits that there are: a task without test samples is tested on its
    validation samples."""
    held = {(t, s): items.at(items.of_task(t, s)) for t in tasks for s in PARTS[1:]}
    for task in tasks:
        if not held[task, "test"]:
            held[task, "test"], held[task, "valid"] = held[task, "valid"], held[task, "test"]
            if held[task, "test"]:
                problems.notes.append(f"task {task!r} has no test samples: it is tested on its validation samples")
    for (task, split), members in held.items():
        if not members and split != "valid":
            raise InputError(f"task {task!r} has no usable {split} samples")
    without = [task for task in tasks if not held[task, "valid"]]
    left_out = sum(len(held[task, "valid"]) for task in tasks) if without else 0
    if left_out:
        problems.notes.append(f"{left_out} validation samples are left out: task {without[0]!r} has none beside test")
    return held, ["train", "test"] if without else ["train", "valid", "test"]


def drafted(transform: Any) -> int:
    """The least side in pixels that a JPEG file is decoded to for a transform: twice what the transform gives, so that
    its resize still has pixels to average, and crops of the training's have all they take.

    :param transform: the model's transform.
    :raises InputError: if it does not say the size that it gives.
    """
    size = getattr(transform, "size", None)
    if not isinstance(size, int):
        raise InputError(
            "jpeg_draft decodes for the size of a model's input, and the transform says none: leave it out"
        )
    return 2 * size


def _pairs(
    parts: Parts,
    tasks: Sequence[str],
    train: PairTransform,
    test: PairTransform,
    draft: int | None,
    problems: Problems,
) -> Streams:
    identities = Identities()

    def data(items: Items, number: int) -> AvalancheDataset:
        images, captions = image_files(items, draft), [items.text.values[code] for code in items.text.codes.tolist()]
        pairs = PairDataset(images, captions, identities, problems.stand_ins(images))
        return as_experience_data(pairs, train, test, number)

    streams: Streams = {"train": [], "valid": [], "test": []}
    for number, task in enumerate(tasks):  # task by task: the numbers of a task do not depend on tasks to come
        for split, stream in streams.items():
            if parts[task, split]:
                stream.append(data(parts[task, split], number))
    return streams


def _classes(
    parts: Parts,
    classes: Mapping[str, Sequence[str]],
    space: LabelSpace,
    train: Callable,
    test: Callable,
    draft: int | None,
    problems: Problems,
) -> Streams:
    streams: Streams = {"train": [], "valid": [], "test": []}
    for number, (task, texts) in enumerate(classes.items()):
        ids = dict(zip(texts, space.tasks[number], strict=True))
        for split, stream in streams.items():
            if not (items := parts[task, split]):
                continue  # no validation samples
            images = image_files(items, draft)
            id_of = np.array([ids.get(text, -1) for text in items.text.values])
            data = ImageDataset(images, id_of[items.text.codes], problems.stand_ins(images))
            stream.append(as_experience_data(data, train, test, number))
    return streams


def image_files(items: Items, draft: int | None = None) -> ImageFiles:
    """The images of samples.

    :param items: samples of any task and split.
    :param draft: least side in pixels that JPEG files are decoded to; None for their own.
    """
    return ImageFiles(items.image.values.at(items.image.codes), draft)


def _class_texts(parts: Parts, task: str) -> list[str]:
    """The classes of a task, each with samples to train on."""
    trained = parts[task, "train"].texts()
    for split, word in (("test", "test"), ("valid", "validation")):
        if beyond := parts[task, split].texts() - trained:
            raise InputError(f"class {min(beyond)!r} of task {task!r} has {word} samples but none to train on")
    return sorted_labels(trained)
