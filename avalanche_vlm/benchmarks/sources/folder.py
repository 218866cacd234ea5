"""A stream from a folder ``task/class/image.jpg``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from avalanche_vlm.benchmarks.label_space import PHOTO, PromptTemplates, Visible
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.benchmarks.sources.assemble import Item, OnError, Problems, assemble, in_order, readable, split_items
from avalanche_vlm.benchmarks.sources.images import EXTENSIONS
from avalanche_vlm.errors import InputError


def image_folder_stream(
    root: str | Path,
    *,
    train_transform: Callable,
    eval_transform: Callable,
    templates: PromptTemplates = PHOTO,
    label_space: Visible = "task",
    test_fraction: float = 0.2,
    seed: int = 0,
    on_error: OnError = "raise",
    name: str | None = None,
    order: Sequence[str] | None = None,
) -> VLMBenchmark:
    """A class-labelled stream with one experience per task folder.

    ``root/task/class/*.jpg`` is split at random within each class; ``root/train/task/class/*.jpg`` with
    ``root/test/...`` beside it is taken as it is. Class names are folder names with underscores and hyphens as spaces.
    Hidden files and files that are not images by their extension are ignored. Every image is decoded once, up front.

    :param root: folder that holds the stream.
    :param train_transform: the model's transform of training images, PIL image to tensor.
    :param eval_transform: the model's transform of test images, PIL image to tensor.
    :param templates: prompts around the class names.
    :param label_space: which classes compete.
    :param test_fraction: share of every class that is kept for testing, in (0, 1).
    :param seed: seed of the random split, 0 or more.
    :param on_error: ``"raise"`` stops at the first image that cannot be read, ``"skip"`` leaves it out and says so in
        ``benchmark.data.skipped``.
    :param name: name of the benchmark; the folder's by default.
    :param order: task folders in the order of the stream; natural order (2 before 10) by default.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"there is no folder at {root}")
    problems = Problems(on_error)
    split_folders = {path.name for path in _folders(root)} == {"train", "test"}
    sides = {"train": root / "train", "test": root / "test"} if split_folders else {"": root}
    found = list(dict.fromkeys(path.name for side in sides.values() for path in _folders(side)))
    if not found:
        raise InputError(f"{root} has no task folders; expected {root}/task/class/image.jpg")
    tasks = in_order(found, order)
    items = [
        item for split, side in sides.items() for task in tasks for item in _task_items(side / task, split, problems)
    ]
    items = split_items(readable(items, problems), test_fraction, seed, by_class=True, problems=problems)
    return assemble(
        name or root.resolve().name,
        "classes",
        items,
        tasks,
        train_transform=train_transform,
        eval_transform=eval_transform,
        tokenizer=None,
        templates=templates,
        label_space=label_space,
        problems=problems,
        protocol={
            "path": str(root),
            "seed": seed,
            "split": "folders" if split_folders else "random",
            "test_fraction": None if split_folders else test_fraction,
        },
    )


def _task_items(folder: Path, split: str, problems: Problems) -> list[Item]:
    if not folder.is_dir():
        raise InputError(f"there is no task folder at {folder}")
    for path in _images(folder):
        raise InputError(f"{path} lies directly in a task folder; expected {folder}/class/{path.name}")
    classes = _folders(folder)
    if not classes:
        raise InputError(f"task folder {folder} has no class folders")
    items = []
    for path in classes:
        images = _images(path)
        if not images:
            problems.add(f"class folder {path} has no images")
        text = re.sub(r"[_\-\s]+", " ", path.name).strip()
        items += [Item(image, text, folder.name, split, "") for image in images]
    return items


def _folders(path: Path) -> list[Path]:
    return sorted((p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")), key=_natural)


def _images(path: Path) -> list[Path]:
    wanted = (p for p in path.iterdir() if not p.is_dir() and p.suffix.lower() in EXTENSIONS)
    return sorted((p for p in wanted if not p.name.startswith(".")), key=_natural)


def _natural(path: Path) -> list:
    """Sorts ``task2`` before ``task10``; the name itself breaks ties, so that no order depends on the disk."""
    parts = re.split(r"(\d+)", path.name)
    return [*((int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts), (-2, path.name)]
