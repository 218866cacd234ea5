"""A stream from the plan of a published benchmark."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_vlm.benchmarks.datasets.declaration import TOGETHER, DataSet
from avalanche_vlm.benchmarks.families.base import Classic, Options, TaskPlan
from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
from avalanche_vlm.benchmarks.scenario import DataReport, ImageDataset, VLMBenchmark, as_experience_data
from avalanche_vlm.benchmarks.sources.checking import left_out
from avalanche_vlm.benchmarks.sources.class_names import warned_of
from avalanche_vlm.benchmarks.sources.labelled import LabelledPart, LabelledSet, raw_images
from avalanche_vlm.benchmarks.sources.path_texts import PathTexts
from avalanche_vlm.benchmarks.sources.problems import Problems, unused_classes
from avalanche_vlm.benchmarks.sources.shots import places_drawn
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import DataWarning, InputError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of the channels as CLIP takes them (arXiv 2103.00020)."""

_NO_PROTOCOL = ("root", "label_space", "seed", "check", "check_workers", "on_error")
"""Options that decide nothing, or that a protocol has under a name of its own."""


def built(
    benchmark: Classic,
    options: Options,
    train_transform: Callable | None,
    eval_transform: Callable | None,
    tokenizer: Any = None,
) -> VLMBenchmark:
    """The stream of a published benchmark.

    :param benchmark: what was declared.
    :param options: values of all options.
    :param train_transform: transform of training images; CLIP's of 224 pixels for None.
    :param eval_transform: transform of test images; CLIP's of 224 pixels for None.
    :param tokenizer: the model's tokenizer, which class names need not go through here.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    root, problems = Path(options["root"]).expanduser(), Problems(options["on_error"])
    declared = benchmark.sets(options)
    read = [of.load(root) for of in declared]
    problems.notes += [*benchmark.notes_with(options), *(f"{of.title}: {note}" for of in declared for note in of.notes)]
    note_other_sizes([other_sizes(of, found) for of, found in zip(declared, read, strict=True)], problems)
    tasks = benchmark.tasks(read, options)
    tasks, chosen = few_shots(tasks, options.get("shots"), options["seed"])
    tasks = checked_tasks(tasks, root, options, problems)
    trained = {key for task in tasks for key in trained_classes(task)}
    for task in tasks:
        problems.notes += without_images(task, trained)
    space = joined_classes(tasks, options["label_space"])
    problems.notes += warned_of(space)
    default = clip_transform()
    shown = (train_transform or default, eval_transform or default)
    streams = {
        part: [
            as_experience_data(_images(getattr(task, part), space.tasks[number], problems), *shown, number)
            for number, task in enumerate(tasks)
        ]
        for part in ("train", "test")
    }
    return VLMBenchmark(
        benchmark.name,
        "classes",
        streams["train"],
        streams["test"],
        label_space=space,
        task_names=[task.name for task in tasks],
        data=DataReport(
            problems.skipped, list(dict.fromkeys(problems.notes)), chosen=chosen, passed_over=problems.passed_over
        ),
        protocol={
            **own_protocol(options),
            **benchmark.facts,
            "root": str(root),
            "sets": [of.name for of in declared],
            "split_seed": options["seed"] if chosen else None,
            "n_train": [len(task.train) for task in tasks],
            "n_test": [len(task.test) for task in tasks],
            "order": [task.name for task in tasks],
        },
    )


def clip_transform() -> ImageTransform:
    """CLIP's transform of 224 pixels, for whoever brings none."""
    return ImageTransform(224, CLIP_MEAN, CLIP_STD)


def own_protocol(options: Options) -> dict[str, Any]:
    """The options that decide figures and have no other name in a protocol.

    :param options: values of all options.
    """
    return {name: _plain(value) for name, value in options.items() if name not in _NO_PROTOCOL}


def note_other_sizes(said: Sequence[str | None], problems: Problems) -> None:
    """Say once that data sets are not as they were published.

    :param said: the words on each data set that is not; None for one that is.
    :param problems: its notes take the sentence.
    """
    if other := [words for words in said if words]:
        sentence = f"figures are not comparable with published ones: {'; '.join(other)}"
        problems.notes.append(sentence)
        warnings.warn(sentence, DataWarning, stacklevel=3)


def other_sizes(of: DataSet, found: LabelledSet) -> str | None:
    """The words on a data set of another size, or other classes, than were published; None where it is that.

    :param of: what is declared of the data set.
    :param found: what was read.
    """
    have = {"classes": len(found.names), **{part: len(images) for part, images in found.parts.items()}}
    have[TOGETHER] = sum(map(len, found.parts.values()))
    want = {"classes": of.classes, **{part: number for part, number in of.sizes.items() if part in have}}
    wrong = [
        f"{have[part]:,} {part if part == 'classes' else f'images ({part})'}, not {number:,}"
        for part, number in want.items()
        if have[part] != number
    ]
    if of.keys and (unknown := sorted(set(found.keys) - set(of.keys))):
        wrong.append(f"the class {unknown[0]!r}, which it was not published with")
    return f"{of.summary} has {', and '.join(wrong)}" if wrong else None


def few_shots(tasks: Sequence[TaskPlan], shots: int | None, seed: int) -> tuple[list[TaskPlan], dict[str, list[int]]]:
    """The same tasks with some training images per class, drawn class by class: what is drawn of one does not depend on
    the others, nor on the order of the tasks. A class with fewer images has some of them more than once.

    :param tasks: tasks with all training images.
    :param shots: images per class; None or 0 leaves all as it is.
    :param seed: seed of the draw, 0 or more.
    :return: the tasks, and by task the places of the chosen images among its training images; empty for all images.
    """
    if not shots:
        return list(tasks), {}
    few, chosen = [], {}
    for task in tasks:
        classes = [(name, np.flatnonzero(task.train.labels == number)) for number, name in enumerate(task.names)]
        rows = places_drawn(classes, task.name, shots, seed)
        few.append(replace(task, train=task.train.at(rows)))
        chosen[task.name] = rows
    return few, chosen


def checked_tasks(tasks: Sequence[TaskPlan], root: Path, options: Options, problems: Problems) -> list[TaskPlan]:
    """The tasks with images that can be read; the others are problems.

    :param tasks: tasks with all images.
    :param root: folder of the data sets, whose manifest says which files were checked before.
    :param options: options on how images are checked.
    :param problems: takes what is wrong with images.
    """
    paths = PathTexts.of(path for task in tasks for part in (task.train, task.test) for path in part.path_texts)
    bad = left_out(paths, root, problems, options["check"], options["check_workers"])
    if not bad:
        return list(tasks)
    return [replace(task, train=_without(task.train, bad), test=_without(task.test, bad)) for task in tasks]


def trained_classes(task: TaskPlan) -> list[Hashable]:
    """What the classes with training images are told apart by.

    :param task: task with the images that are used.
    """
    return [task.classes[label] for label in np.unique(task.train.labels).tolist()]


def without_images(task: TaskPlan, trained: Collection[Hashable]) -> list[str]:
    """Sentences on classes that are not tested, and on those that other tasks alone train.

    :param task: task with the images that are used.
    :param trained: what the classes are told apart by that any task trains.
    :raises InputError: if a class has no training images in any task, or the task no training or no test images.
    """
    for part, images in (("training", task.train), ("test", task.test)):
        if not len(images):
            raise InputError(f"task {task.name!r} has no {part} images")
    for key, name in zip(task.classes, task.names, strict=True):
        if key not in trained:
            raise InputError(f"class {name!r} of task {task.name!r} has no training images")
    here = {"training": set(task.train.labels.tolist()), "test": set(task.test.labels.tolist())}
    found = []
    for part, labels in here.items():
        without = [name for number, name in enumerate(task.names) if number not in labels]
        if without:
            found.append(unused_classes(task.name, part, without))
    return found


def joined_classes(tasks: Sequence[TaskPlan], visible: Any) -> LabelSpace:
    """The classes of all tasks, numbered as they come.

    :param tasks: tasks in the order of the stream.
    :param visible: which classes compete.
    """
    ids: dict[Hashable, int] = {}
    names: list[str] = []
    members = []
    for task in tasks:
        for key, name in zip(task.classes, task.names, strict=True):
            if key not in ids:
                ids[key] = len(names)
                names.append(name)
        members.append(tuple(ids[key] for key in task.classes))
    sets = tuple(PromptTemplates(task.name, task.prompts) for task in tasks)
    if len({of.templates for of in sets}) == 1:
        sets = (PromptTemplates("published", sets[0].templates),)
    return LabelSpace(tuple(names), tuple(members), visible, sets, tuple(task.name for task in tasks))


def _images(part: LabelledPart, ids: Sequence[int], problems: Problems) -> ImageDataset:
    images = raw_images(part)
    return ImageDataset(images, np.asarray(ids)[part.labels].tolist(), problems.stand_ins(images))


def _without(part: LabelledPart, bad: Collection[str]) -> LabelledPart:
    paths = part.path_texts
    return part.at([row for row, path in enumerate(paths) if path not in bad]) if paths else part


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(of) for name, of in value.items()}
    return [_plain(of) for of in value] if isinstance(value, list | tuple) else value
