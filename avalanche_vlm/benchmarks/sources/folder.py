"""A stream from a folder of class-labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from avalanche_vlm.benchmarks.label_space import PHOTO, PromptTemplates, Visible
from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.benchmarks.sources.assemble import assemble, in_order, readable, split_items
from avalanche_vlm.benchmarks.sources.checking import Check
from avalanche_vlm.benchmarks.sources.class_names import Chosen, choose_names, from_folders
from avalanche_vlm.benchmarks.sources.class_split import ClassOrder, divided
from avalanche_vlm.benchmarks.sources.items import PARTS, Coded, Items
from avalanche_vlm.benchmarks.sources.layout import Found, Layout, survey_folder
from avalanche_vlm.benchmarks.sources.name_lists import ClassNames
from avalanche_vlm.benchmarks.sources.path_texts import PathTexts
from avalanche_vlm.benchmarks.sources.problems import OnError, Problems
from avalanche_vlm.benchmarks.sources.shots import few_items
from avalanche_vlm.errors import InputError


def image_folder_stream(
    root: str | Path,
    *,
    train_transform: Callable,
    eval_transform: Callable,
    templates: PromptTemplates = PHOTO,
    label_space: Visible | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    on_error: OnError = "raise",
    name: str | None = None,
    order: Sequence[str] | None = None,
    layout: Layout = "auto",
    class_names: ClassNames | None = None,
    split_classes: int | None = None,
    class_order: ClassOrder | None = None,
    shots: int | None = None,
    check: Check = "full",
    check_workers: int | None = None,
    jpeg_draft: bool = False,
) -> VLMBenchmark:
    """A class-labelled stream with one experience per task folder.

    ``root/task/class/*.jpg`` is split at random within each class, and so is ``root/class/*.jpg``, a stream of one task
    (called ``all``). Folders ``train``, ``val`` and ``test`` are taken as they are, wherever they lie side by side: at
    the top, in the tasks, or in the classes. Validation images make the stream ``valid`` where there are test images,
    and are what is tested where there are none. Images in folders further down belong to the class above them.

    Class names are folder names with underscores and hyphens as spaces, and without the numbers of ``001.Name`` where
    all have them; or those of ``class_names`` or of a file ``classes.txt`` in or beside the folder. Hidden files are
    ignored; other files that are not images by their extension are counted in ``benchmark.data.notes``. Images are
    checked once, up front.

    :param root: folder that holds the stream.
    :param train_transform: the model's transform of training images, PIL image to tensor.
    :param eval_transform: the model's transform of test images, PIL image to tensor.
    :param templates: prompts around the class names.
    :param label_space: which classes compete; by default ``"task"``, and ``"seen"`` with ``split_classes``.
    :param test_fraction: share of every class that is kept for testing, in (0, 1).
    :param seed: seed of the random split, 0 or more.
    :param on_error: ``"raise"`` stops at the first image that cannot be read, ``"skip"`` leaves it out and says so in
        ``benchmark.data.skipped``; one that no check has found is passed over when it is met, and
        ``benchmark.data.passed_over`` says so.
    :param name: name of the benchmark; the folder's by default.
    :param order: task folders in the order of the stream; natural order (2 before 10) by default.
    :param layout: what lies beneath the splits: ``"class"`` for classes of one task, ``"task/class"`` for tasks with
        classes; ``"auto"`` takes folders for classes if there are images in them, and for tasks if there are folders.
    :param class_names: names of the classes, by folder or in order, or a file with them
        (:func:`~avalanche_vlm.benchmarks.sources.name_lists.names_for`).
    :param split_classes: number of tasks that the classes of a folder of one task are given to, as evenly as they can.
    :param class_order: folders or names of all classes in the order in which these tasks bring them, a file with one a
        line, or ``"sorted"``; drawn from ``seed`` by default.
    :param shots: training images of each class and task, drawn from ``seed`` class by class; of a class with fewer some
        are taken more than once. Their places are in ``benchmark.data.chosen``. All by default.
    :param check: how images are checked before training: ``"full"`` decodes each, ``"fast"`` reads headers and ends,
        ``"none"`` sees that they are there. A file that was checked and has not changed since is not read again.
    :param check_workers: processes that check, 0 for this one; one a processor by default.
    :param jpeg_draft: whether large JPEG files are decoded at a half, a quarter or an eighth of their size, twice the
        model's input or more: several times as fast, and not quite the same pixels (benchmarks/jpeg_draft.py).
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"there is no folder at {root}")
    problems = Problems(on_error)
    items, tasks, names = folder_items(root, problems, layout, order, class_names, label_space or "task")
    given = set(np.unique(items.split > 0).tolist())
    seen = readable(items, problems, root, check, check_workers)
    items = split_items(seen, test_fraction, seed, by_class=True, problems=problems)
    del seen  # what the system said of a million files takes as much again as the samples
    items, tasks, division = divided(items, tasks, split_classes, class_order, seed, names)
    items, chosen = few_items(items, tasks, shots, seed)
    if shots:
        division |= {"shots": shots}
    return assemble(
        name or root.resolve().name,
        "classes",
        items,
        tasks,
        train_transform=train_transform,
        eval_transform=eval_transform,
        tokenizer=None,
        templates=templates,
        label_space=label_space or ("seen" if split_classes else "task"),
        problems=problems,
        chosen=chosen,
        protocol={
            "path": str(root),
            "split_seed": seed if given != {True} or shots else None,
            "split": "folders" if given == {True} else "random" if given == {False} else "folders and random",
            "test_fraction": None if given == {True} else test_fraction,
            **division,
        },
        names=names,
        jpeg_draft=jpeg_draft,
    )


def folder_items(
    root: Path,
    problems: Problems,
    layout: Layout = "auto",
    order: Sequence[str] | None = None,
    class_names: ClassNames | None = None,
    visible: Visible = "task",
) -> tuple[Items, list[str], Chosen]:
    """The samples in class folders, unread; the tasks in their order, and the names of classes.

    :param root: folder that holds the pictures.
    :param problems: takes what is wrong, and what else is to be said.
    :param layout: what lies beneath the splits, as :func:`image_folder_stream` has it.
    :param order: task folders in the order of the stream; None for natural order.
    :param class_names: names of the classes, or a file with them; None for those of the folders.
    :param visible: which classes compete.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    survey = survey_folder(root, layout)
    problems.notes += survey.notes
    if not survey.found:
        raise InputError(
            f"{root} has no task folders with images; expected {root}/task/class/image.jpg or {root}/class/image.jpg"
        )
    tasks = in_order(survey.tasks, order)
    for task, folder in survey.empty:
        if task in tasks:
            problems.add(f"class folder {folder} has no images")
    chosen = [found for found in survey.found if found.task in tasks]
    texts, names = _texts_and_names(root, chosen, class_names, problems, visible)
    return _in_columns(chosen, texts), tasks, names


def _in_columns(found: Sequence[Found], texts: Mapping[tuple[str, str], str]) -> Items:
    """The samples of folders, in their order."""
    counts = [of.held.number for of in found]

    def column(values: list[str]) -> Coded:
        places = {value: place for place, value in enumerate(dict.fromkeys(values))}
        codes = np.array([places[value] for value in values], np.min_scalar_type(max(len(places), 1)))
        return Coded(list(places), np.repeat(codes, counts))

    paths = PathTexts.beneath((of.folder, of.held.names) for of in found)
    splits = np.array([PARTS.index(of.split) for of in found], np.uint8)
    return Items(
        Coded(paths, np.arange(len(paths), dtype=np.min_scalar_type(max(len(paths), 1)))),
        column([texts[of.task, of.label] for of in found]),
        column([of.task for of in found]),
        np.repeat(splits, counts),
    )


def _texts_and_names(
    root: Path, found: Sequence[Found], given: ClassNames | None, problems: Problems, visible: Visible
) -> tuple[dict[tuple[str, str], str], Chosen]:
    """What each class is told by, by task and folder, and names for those that a file names."""
    of_tasks: dict[str, dict[str, None]] = {}
    for folder in found:
        of_tasks.setdefault(folder.task, {})[folder.label] = None
    folders = {task: list(labels) for task, labels in of_tasks.items()}
    chosen = choose_names(given, [label for labels in folders.values() for label in labels], root)
    texts: dict[tuple[str, str], str] = {}
    notes: list[str] = []
    for task, labels in folders.items():
        # Under these label spaces equal names in two tasks are one class, so unequal folders must not become equal.
        beside = [] if visible == "task" else [of for other in folders if other != task for of in folders[other]]
        spaced, said = from_folders(labels, beside)
        notes += said
        texts |= {(task, label): label if chosen.names else text for label, text in spaced.items()}
    if not chosen.names:
        problems.notes += dict.fromkeys(notes)
    return texts, chosen
