"""What streams from a folder and from a table share: skipping, splitting, assembling."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from avalanche_vlm.benchmarks.label_space import PromptTemplates, Visible, join_tasks
from avalanche_vlm.benchmarks.scenario import (
    DataReport,
    ImageDataset,
    PairDataset,
    PairTransform,
    VLMBenchmark,
    as_experience_data,
)
from avalanche_vlm.benchmarks.sources.images import ImageFiles, check_images
from avalanche_vlm.errors import InputError

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Item:
    """One sample of a user's data.

    :param image: path of the image file.
    :param text: class name, or caption.
    :param task: name of the item's task.
    :param split: ``"train"``, ``"test"`` or ``""`` where the split is ours to make.
    :param where: what a sentence about it begins with.
    """

    image: Path
    text: str
    task: str
    split: str
    where: str


class Problems:
    """Raises on the first problem, or notes each.

    :param on_error: ``"raise"`` or ``"skip"``.
    """

    def __init__(self, on_error: OnError) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is raise or skip, not {on_error!r}")
        self.on_error = on_error
        self.skipped: list[str] = []

    def add(self, sentence: str) -> None:
        """One sample cannot be used."""
        if self.on_error == "raise":
            raise InputError(f"{sentence} (on_error=skip leaves it out)")
        self.skipped.append(sentence)


def readable(items: Sequence[Item], problems: Problems) -> list[Item]:
    """The items whose images decode; the others are problems."""
    # One at a time, so that "raise" stops at the first; once per file, however many captions it has.
    verdicts: dict[Path, list[tuple[int, str]]] = {}
    good = []
    for item in items:
        if item.image not in verdicts:
            verdicts[item.image] = check_images([item.image])
        if not verdicts[item.image]:
            good.append(item)
        for _, sentence in verdicts[item.image]:
            problems.add(f"{item.where}: {sentence}" if item.where else sentence)
    return good


def split_indices(n: int, test_fraction: float, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """A random split of ``n`` indices with at least one on either side.

    :param n: number of items, at least 2.
    :param test_fraction: share of the items that is kept for testing, in (0, 1).
    :return: train and test indices, each in order.
    """
    order = rng.permutation(n)
    n_test = min(n - 1, max(1, round(test_fraction * n)))
    return sorted(order[n_test:].tolist()), sorted(order[:n_test].tolist())


def split_items(
    items: Sequence[Item], test_fraction: float, seed: int, by_class: bool, problems: Problems
) -> list[Item]:
    """Give every item without a split one: stratified by task, and by class if asked.

    Images are split and not rows: one with several captions is on one side. A group's split depends on its members
    and the seed only, so that the same seed tests the same images in every task order.

    :param problems: a class (or task) with a single image cannot be split.
    """
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction lies between 0 and 1, not {test_fraction}")
    if seed < 0:
        raise InputError(f"seed is a whole number from 0, not {seed}")
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        if not item.split:
            groups.setdefault((item.task, item.text if by_class else ""), []).append(item)
    done = [item for item in items if item.split]
    for (task, text), members in groups.items():
        images = list(dict.fromkeys(m.image for m in members))
        if len(images) < 2:
            what = f"class {text!r} of task {task!r}" if by_class else f"task {task!r}"
            problems.add(f"{what} has one usable image ({images[0]}), which cannot be split in train and test")
            continue
        rng = np.random.default_rng([seed, zlib.crc32(f"{task}\0{text}".encode(errors="surrogatepass"))])
        test = {images[i] for i in split_indices(len(images), test_fraction, rng)[1]}
        done += [replace(m, split="test" if m.image in test else "train") for m in members]
    return done


def in_order(found: Sequence[str], order: Sequence[str] | None) -> list[str]:
    """The names of ``order``, checked, or those found."""
    for name in order or ():
        if name not in found:
            raise InputError(f"there is no task called {name!r}; there are {', '.join(found)}")
        if list(order).count(name) > 1:
            raise InputError(f"order names task {name!r} more than once")
    return list(order or found)


def assemble(
    name: str,
    kind: Literal["classes", "pairs"],
    items: Sequence[Item],
    tasks: Sequence[str],
    *,
    train_transform: Callable,
    eval_transform: Callable,
    tokenizer: Callable | None,
    templates: PromptTemplates,
    label_space: Visible,
    problems: Problems,
    protocol: dict,
) -> VLMBenchmark:
    """A benchmark of items that all have a split.

    :raises InputError: if a task lacks train or test samples.
    """
    parts = {(t, s): [i for i in items if i.task == t and i.split == s] for t in tasks for s in ("train", "test")}
    for (task, split), members in parts.items():
        if not members:
            raise InputError(f"task {task!r} has no usable {split} samples")
    counts = {f"n_{s}": [len(parts[t, s]) for t in tasks] for s in ("train", "test")}
    common = {
        "task_names": list(tasks),
        "data": DataReport(problems.skipped),
        "protocol": {**protocol, **counts, "order": list(tasks)},
    }
    if kind == "pairs":
        transforms = (PairTransform(train_transform, tokenizer), PairTransform(eval_transform, tokenizer))
        identities: dict[str, int] = {}
        streams = {
            split: [
                as_experience_data(
                    PairDataset(
                        ImageFiles([i.image for i in parts[t, split]]), [i.text for i in parts[t, split]], identities
                    ),
                    *transforms,
                )
                for t in tasks
            ]
            for split in ("train", "test")
        }
        return VLMBenchmark(name, kind, streams["train"], streams["test"], **common)

    names = {t: sorted({i.text for s in ("train", "test") for i in parts[t, s]}) for t in tasks}
    for t in tasks:
        untrained = set(names[t]) - {i.text for i in parts[t, "train"]}
        if untrained:
            raise InputError(f"class {sorted(untrained)[0]!r} of task {t!r} has test samples but none to train on")
    space = join_tasks([(t, names[t], templates) for t in tasks], label_space)
    ids = [dict(zip(names[t], space.tasks[k], strict=True)) for k, t in enumerate(tasks)]
    streams = {
        split: [
            as_experience_data(
                ImageDataset(ImageFiles([i.image for i in parts[t, split]]), [ids[k][i.text] for i in parts[t, split]]),
                train_transform,
                eval_transform,
                k if label_space == "task" else 0,
            )
            for k, t in enumerate(tasks)
        ]
        for split in ("train", "test")
    }
    return VLMBenchmark(name, kind, streams["train"], streams["test"], label_space=space, **common)
