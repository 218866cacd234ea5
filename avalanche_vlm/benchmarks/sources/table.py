"""Streams and reference pairs from a table, of any format that gives rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avalanche_vlm.benchmarks.label_space import PHOTO, PromptTemplates, StreamKind, Visible
from avalanche_vlm.benchmarks.scenario import ReferencePairs, VLMBenchmark
from avalanche_vlm.benchmarks.sources.assemble import assemble, image_files, in_order, readable, split_items
from avalanche_vlm.benchmarks.sources.checking import Check
from avalanche_vlm.benchmarks.sources.class_names import UNNAMED, choose_names
from avalanche_vlm.benchmarks.sources.class_split import ClassOrder, divided
from avalanche_vlm.benchmarks.sources.columns import COLUMNS, kind_of, task_said, under_our_names
from avalanche_vlm.benchmarks.sources.items import Item, Items
from avalanche_vlm.benchmarks.sources.name_lists import ClassNames
from avalanche_vlm.benchmarks.sources.problems import OnError, Problems
from avalanche_vlm.benchmarks.sources.registry import Row, read_rows
from avalanche_vlm.benchmarks.sources.shots import few_items
from avalanche_vlm.benchmarks.sources.splits import split_of
from avalanche_vlm.benchmarks.sources.time_steps import in_steps
from avalanche_vlm.errors import InputError


def table_stream(
    path: str | Path,
    *,
    train_transform: Callable,
    eval_transform: Callable,
    tokenizer: Callable | None = None,
    image_root: str | Path | None = None,
    templates: PromptTemplates | None = None,
    label_space: Visible | None = None,
    kind: StreamKind | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    on_error: OnError = "raise",
    name: str | None = None,
    order: Sequence[str] | None = None,
    class_names: ClassNames | None = None,
    split_classes: int | None = None,
    class_order: ClassOrder | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    task_column: str | None = None,
    domain_column: str | None = None,
    time_column: str | None = None,
    steps: int | None = None,
    split_column: str | None = None,
    shots: int | None = None,
    check: Check = "full",
    check_workers: int | None = None,
    jpeg_draft: bool = False,
) -> VLMBenchmark:
    """A stream from a table with the columns ``image``, ``label`` and/or ``caption``, ``task``, ``split``.

    With ``label`` it is class-labelled, with ``caption`` an image-text stream; with both, ``kind`` says which. A
    picture with several captions stands in as many rows, which a random split keeps together. Without ``task`` all rows
    are one task; without ``split`` (``train``, ``val`` or ``test``) the rows are split at random, within each class
    where there are classes. Validation rows make the stream ``valid`` where there are test rows, and are what is tested
    where there are none. Images are checked once, up front.

    :param path: a table of any format that has rows (:mod:`~avalanche_vlm.benchmarks.sources.registry`;
        ``avalanche-vlm list formats`` names them), told by its suffix.
    :param train_transform: PIL image to tensor, the model's.
    :param eval_transform: the model's transform of test images, PIL image to tensor.
    :param tokenizer: the model's, for pairs.
    :param image_root: what relative image paths are relative to; the table's folder by default.
    :param templates: prompts around the class names, ``a photo of a {}.`` by default.
    :param label_space: which classes compete; by default ``"task"``, ``"seen"`` with ``split_classes``, and ``"union"``
        with ``domain_column`` or ``time_column``, since domains and steps have the same classes.
    :param kind: ``"classes"`` or ``"pairs"``, needed where the table has both columns.
    :param test_fraction: share kept for testing where the table does not say, in (0, 1).
    :param seed: seed of the random split, 0 or more.
    :param on_error: ``"raise"`` stops at the first row that cannot be used, ``"skip"`` leaves it out and says so in
        ``benchmark.data.skipped``; one that no check has found is passed over when it is met, and
        ``benchmark.data.passed_over`` says so.
    :param name: name of the benchmark; the file's by default.
    :param order: tasks in the order of the stream; of first appearance by default.
    :param class_names: names of the classes, by label or in order, or a file with them
        (:func:`~avalanche_vlm.benchmarks.sources.name_lists.names_for`); by default a file ``classes.txt`` beside the
        table, if there is one that fits, or else the labels themselves.
    :param split_classes: number of tasks that the classes of a table of one task are given to, as evenly as they can.
    :param class_order: labels or names of all classes in the order in which these tasks bring them, a file with one a
        line, or ``"sorted"``; drawn from ``seed`` by default.
    :param image_column: name of the column with image paths; ``image`` (or ``file_name``, ``image_name``) by default.
    :param label_column: name of the column with class labels; ``label`` by default.
    :param caption_column: name of the column with captions; ``caption`` (or ``text``, ``comment``) by default.
    :param task_column: name of the column with tasks; ``task`` by default.
    :param domain_column: name of a column whose values are tasks with the same classes, such as a camera's name.
    :param time_column: name of a column with numbers, such as years, or dates in ISO 8601: the tasks are steps in time.
    :param steps: number of steps that are made of the times, of about as many samples each, equal times in one step;
        by default every time is a step.
    :param split_column: name of the column with splits; ``split`` by default.
    :param shots: training images of each class and task, drawn from ``seed`` class by class; of a class with fewer some
        are taken more than once. Their places are in ``benchmark.data.chosen``. All by default.
    :param check: how images are checked before training: ``"full"`` decodes each, ``"fast"`` reads headers and ends,
        ``"none"`` sees that they are there. A file that was checked and has not changed since is not read again.
    :param check_workers: processes that check, 0 for this one; one a processor by default.
    :param jpeg_draft: whether large JPEG files are decoded at a half, a quarter or an eighth of their size, twice the
        model's input or more: several times as fast, and not quite the same pixels (benchmarks/jpeg_draft.py).
    :raises InputError: in one sentence with the row's line number, for everything that cannot be used.
    """
    path = Path(path)
    problems = Problems(on_error)
    by, tasks_column = task_said({"task": task_column, "domain": domain_column, "time": time_column})
    if steps is not None and by != "time":
        raise InputError("steps are made of a time_column, which is not given")
    said = {
        "image": image_column,
        "label": label_column,
        "caption": caption_column,
        "task": tasks_column,
        "split": split_column,
    }
    rows = under_our_names(list(read_rows(path, problems)), said, path, by)
    kind = kind_of(rows, kind, said, path)
    text_column = "label" if kind == "classes" else "caption"
    items = table_items(path, rows, text_column, image_root, problems)
    del rows  # which take several times as much as the samples
    if kind == "classes":
        refuse_unheeded(path, "a stream of classes", caption_column=caption_column)
    else:
        refuse_unheeded(
            path,
            "a stream of captions",
            label_column=label_column,
            templates=templates,
            label_space=label_space,
            class_names=class_names,
            split_classes=split_classes,
            class_order=class_order,
            shots=shots,
        )
    if kind == "pairs" and tokenizer is None:
        raise InputError(f"{path} is a table of captions: give the model's tokenizer")
    if not items:
        raise InputError(f"{path} has no usable rows")
    found = items.tasks()
    if by == "time":
        items, found = in_steps(items, steps, path, problems)
        if order:
            raise InputError("order does not apply to a time_column, whose steps are in the order of time")
    tasks = in_order(found, order)
    mine = np.array([task in tasks for task in items.task.values])[items.task.codes]
    seen = readable(items.at(mine), problems, path, check, check_workers)
    names = choose_names(class_names, seen.items.texts(), path) if kind == "classes" else UNNAMED
    given = set(np.unique(seen.items.split > 0).tolist())
    items = split_items(seen, test_fraction, seed, by_class=kind == "classes", problems=problems)
    del seen  # what the system said of a million files takes as much again as the samples
    items, tasks, division = divided(items, tasks, split_classes, class_order, seed, names)
    items, chosen = few_items(items, tasks, shots, seed)
    if by != "task":
        division |= {"steps": by}
    if shots:
        division |= {"shots": shots}
    drawn = given != {True} or bool(shots)
    return assemble(
        name or path.stem,
        kind,
        items,
        tasks,
        train_transform=train_transform,
        eval_transform=eval_transform,
        tokenizer=tokenizer,
        templates=templates or PHOTO,
        label_space=label_space or ("seen" if split_classes else "task" if by == "task" else "union"),
        problems=problems,
        chosen=chosen,
        protocol={
            "path": str(path),
            "split_seed": seed if drawn else None,
            "split": "column" if given == {True} else "random" if given == {False} else "column and random",
            "test_fraction": None if given == {True} else test_fraction,
            "columns": {by if column == "task" else column: name for column, name in said.items() if name},
            "image_root": None if image_root is None else str(image_root),
            **division,
        },
        names=names,
        jpeg_draft=jpeg_draft,
    )


def table_kind(path: str | Path, *, kind: StreamKind | None = None, **options: Any) -> StreamKind | None:
    """What the samples of a table are.

    :param path: table of any format.
    :param kind: what the user says of it.
    :param options: options of :func:`table_stream`, of which the names of columns count.
    :return: ``"classes"`` or ``"pairs"``; None where the table cannot be read, which whoever builds the stream says.
    """
    said = {column: options.get(f"{column}_column") for column in COLUMNS}
    try:
        rows = under_our_names(list(read_rows(Path(path), Problems("skip"))), said, Path(path))
        return kind_of(rows, kind, said, Path(path))
    except InputError:
        return None


def refuse_unheeded(path: Path, what: str, **options: Any) -> None:
    """Refuse options that a stream of its kind would not heed.

    :param path: the data, for messages.
    :param what: what the stream is, as the sentence says it.
    :param options: options by name, None for what was not given.
    :raises InputError: for the first that was given.
    """
    for option, value in options.items():
        if value is not None:
            flag = {"templates": "template"}.get(option, option).replace("_", "-")
            raise InputError(f"{option} (--{flag}) does not apply to {path}: it is {what}")


def pairs_stream(path: str | Path, **options: Any) -> VLMBenchmark:
    """An image-text stream from the ``image`` and ``caption`` columns of a table; options of :func:`table_stream`."""
    return table_stream(path, kind="pairs", **options)


def reference_table(
    path: str | Path,
    *,
    transform: Callable,
    image_root: str | Path | None = None,
    on_error: OnError = "raise",
    image_column: str | None = None,
    caption_column: str | None = None,
    check: Check = "full",
    check_workers: int | None = None,
) -> ReferencePairs:
    """Reference pairs from the ``image`` and ``caption`` columns of a table.

    :param path: a table of any format that has rows, as :func:`table_stream` takes it.
    :param transform: PIL image to tensor, the model's for evaluation.
    :param image_root: what relative image paths are relative to; the table's folder by default.
    :param on_error: ``"raise"``, or ``"skip"``, which says what it left out in ``skipped`` of the pairs.
    :param image_column: name of the column with image paths; ``image`` by default.
    :param caption_column: name of the column with captions; ``caption`` by default.
    :param check: how images are checked before training: ``"full"`` decodes each, ``"fast"`` reads headers and ends,
        ``"none"`` sees that they are there. A file that was checked and has not changed since is not read again.
    :param check_workers: processes that check, 0 for this one; one a processor by default.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    path = Path(path)
    problems = Problems(on_error)
    rows = under_our_names(list(read_rows(path, problems)), {"image": image_column, "caption": caption_column}, path)
    items = table_items(path, rows, "caption", image_root, problems)
    items = readable(items, problems, path, check, check_workers).items
    if not items:
        raise InputError(f"{path} has no usable rows")
    captions = tuple(items.text.values[code] for code in items.text.codes.tolist())
    return ReferencePairs(image_files(items), captions, transform, tuple(problems.skipped), str(path))


def table_items(
    path: Path, rows: Sequence[Row], text_column: str, image_root: str | Path | None, problems: Problems
) -> Items:
    """The samples that rows name, unread.

    :param path: the table, or the folder that one describes.
    :param rows: rows under our names of columns.
    :param text_column: ``label`` or ``caption``.
    :param image_root: what relative image paths are relative to; None for the table's folder.
    :param problems: takes rows that cannot be used.
    :raises InputError: if there are no rows, or a column is missing.
    """
    if not rows:
        raise InputError(f"{path} has no usable rows")
    columns = {column for _, fields in rows for column in fields}
    for column in ("image", text_column):
        if column not in columns:
            listed = ", ".join(sorted(map(str, columns)))
            raise InputError(f"{path} has no column {column!r}; it has {listed} (name it with {column}_column)")
    if image_root is not None and all(os.path.isabs(str(fields.get("image", ""))) for _, fields in rows):
        raise InputError(f"image_root (--image-root) does not apply to {path}: none of its image paths is relative")
    folder = Path(image_root) if image_root is not None else path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise InputError(f"image_root: there is no folder at {folder}")
    found = _usable(path, rows, text_column, folder, "task" in columns, problems)
    return Items.of(found, str(path))


def _usable(
    path: Path, rows: Sequence[Row], text_column: str, folder: Path, has_tasks: bool, problems: Problems
) -> Iterator[Item]:
    for line, fields in rows:
        where = f"{path}, row {line}"
        values = {name: str(value).strip() for name, value in fields.items() if value is not None}
        if not values.get("image"):
            problems.add(f"{where}: the image is missing")
        elif not isinstance(fields["image"], str | int | float):
            problems.add(f"{where}: the image is no path")
        elif not values.get(text_column):
            problems.add(f"{where}: the {text_column} is empty")
        elif not isinstance(fields[text_column], (str, int, float)) or not encodable(values[text_column]):
            problems.add(f"{where}: the {text_column} is not text")
        elif has_tasks and not values.get("task"):
            problems.add(f"{where}: the task is empty")
        elif values.get("split") and not split_of(values["split"]):
            problems.add(f"{where}: split is train, val or test, not {values['split']!r}")
        else:
            task, split = values.get("task", "all"), split_of(values.get("split", "")) or ""
            yield Item(str(file_of_image(folder, values["image"])), values[text_column], task, split, line)


def file_of_image(folder: Path, written: str) -> Path:
    """The file of an image that a table names.

    :param folder: the folder that the table's paths are relative to.
    :param written: what the table says, whose folders may be separated as on Windows.
    :return: the path of the file, which need not be there.
    """
    path = folder / written
    turned = folder / written.replace("\\", "/")
    # Unlike Path.exists, no error for a name that no disk takes.
    return turned if "\\" in written and not os.path.exists(path) and os.path.exists(turned) else path


def encodable(text: str) -> bool:
    """False for half a surrogate pair, which JSON can hold and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
