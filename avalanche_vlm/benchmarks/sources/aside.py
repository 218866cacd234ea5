"""Held-out sets from a user's own files: tables and class folders, of which nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_vlm.benchmarks.label_space import PHOTO, LabelSpace, PromptTemplates, StreamKind
from avalanche_vlm.benchmarks.registry import Reader
from avalanche_vlm.benchmarks.scenario import HeldOutSet, ImageDataset, PairDataset, PairTransform
from avalanche_vlm.benchmarks.sources.assemble import image_files, readable
from avalanche_vlm.benchmarks.sources.checking import Check
from avalanche_vlm.benchmarks.sources.class_names import UNNAMED, Chosen, choose_names, warned_of
from avalanche_vlm.benchmarks.sources.columns import under_our_names
from avalanche_vlm.benchmarks.sources.folder import folder_items
from avalanche_vlm.benchmarks.sources.items import PARTS, Items
from avalanche_vlm.benchmarks.sources.ordering import sorted_labels
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import read_rows
from avalanche_vlm.benchmarks.sources.table import table_items
from avalanche_vlm.benchmarks.transformed import Transformed
from avalanche_vlm.errors import InputError


@dataclass(frozen=True)
class AsideReading:
    """How held-out sets are read.

    :param model: the model whose evaluation transform and tokenizer read the samples.
    :param problems: takes what is wrong with samples, and what else is to be said.
    :param check: how images are checked (:func:`~avalanche_vlm.benchmarks.sources.checking.unreadable_files`).
    :param check_workers: processes that check; None for one a processor.
    """

    model: Reader
    problems: Problems = field(default_factory=lambda: Problems("raise"))
    check: Check = "full"
    check_workers: int | None = None


def table_aside(path: Path, name: str, reading: AsideReading) -> list[HeldOutSet]:
    """Held-out sets from a table, one for each task: its test rows where it has any, its validation rows where it has
    these alone, all of it where it says nothing of splits. A table with labels and captions is taken for captions.

    :param path: a table of any format that has rows.
    :param name: what the set is called.
    :param reading: how it is read.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    rows = under_our_names(list(read_rows(path, reading.problems)), {}, path)
    kind: StreamKind = "pairs" if any("caption" in fields for _, fields in rows) else "classes"
    items = table_items(path, rows, "caption" if kind == "pairs" else "label", None, reading.problems)
    names = choose_names(None, items.texts(), path) if kind == "classes" else UNNAMED
    return _sets(path, name, kind, items, names, reading)


def folder_aside(path: Path, name: str, reading: AsideReading) -> list[HeldOutSet]:
    """Held-out sets from class folders, one for each task, of the same parts as :func:`table_aside` takes.

    :param path: the folder, with classes, or with tasks or parts above, between or below them.
    :param name: what the set is called.
    :param reading: how it is read.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    items, _, names = folder_items(path, reading.problems)
    return _sets(path, name, "classes", items, names, reading)


def class_aside(
    name: str, images: Any, y: Sequence[int], names: Sequence[str], prompts: PromptTemplates, reading: AsideReading
) -> HeldOutSet:
    """A held-out set of images with classes.

    :param name: what the set is called.
    :param images: N raw images.
    :param y: class ids of the images.
    :param names: names of the classes, in the order of their ids.
    :param prompts: prompts around the class names.
    :param reading: how it is read.
    """
    space = LabelSpace.from_names(names, prompts)
    reading.problems.notes += [f"held-out set {name}: {sentence}" for sentence in warned_of(space)]
    dataset = ImageDataset(images, y, reading.problems.stand_ins(images))
    return HeldOutSet(name, Transformed(dataset, reading.model.transforms.eval), space)


def pairs_aside(name: str, images: Any, captions: Sequence[str], reading: AsideReading) -> HeldOutSet:
    """A held-out set of images with captions.

    :param name: what the set is called.
    :param images: N raw images; an image with several captions stands in as many places.
    :param captions: captions of the N images.
    :param reading: how it is read.
    """
    transform = PairTransform(reading.model.transforms.eval, reading.model.tokenizer)
    dataset = PairDataset(images, captions, stand_ins=reading.problems.stand_ins(images))
    return HeldOutSet(name, Transformed(dataset, transform))


def _sets(
    path: Path, name: str, kind: StreamKind, items: Items, names: Chosen, reading: AsideReading
) -> list[HeldOutSet]:
    items = readable(tested_items(path, items), reading.problems, path, reading.check, reading.check_workers).items
    refuse_nothing(path, items)
    tasks = items.tasks()
    found = []
    for task in tasks:
        mine = items.at(items.of_task(task))
        called = name if len(tasks) == 1 else f"{name} {task}"
        images, of = image_files(mine), mine.text.codes.tolist()
        if kind == "pairs":
            found.append(pairs_aside(called, images, [mine.text.values[code] for code in of], reading))
            continue
        texts = sorted_labels(mine.texts())
        ids = {text: number for number, text in enumerate(texts)}
        titles = [names.names.get(text, text) for text in texts]
        found.append(class_aside(called, images, [ids[mine.text.values[code]] for code in of], titles, PHOTO, reading))
    reading.problems.notes += [f"held-out set {name}: {note}" for note in names.notes]
    return found


def refuse_nothing(path: Path, items: Items) -> None:
    """Refuse data without a sample.

    :param path: the data, for messages.
    :param items: samples that can be used.
    :raises InputError: if there are none.
    """
    if not items:
        raise InputError(f"{path} has no usable samples")


def tested_items(path: Path, items: Items) -> Items:
    """The samples that are measured: of the test part, of the validation part where there is none, or all of them where
    nothing is said of parts.

    :param path: the data, for messages.
    :param items: samples of all parts.
    :raises InputError: if all of them train.
    """
    refuse_nothing(path, items)
    for part in ("test", "valid", ""):
        if (rows := np.flatnonzero(items.split == PARTS.index(part))).size:
            return items.at(rows)
    raise InputError(f"{path} has training samples alone: a held-out set has test samples, or says nothing of splits")
