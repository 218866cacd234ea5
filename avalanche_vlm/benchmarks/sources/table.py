"""Streams and reference pairs from a table, of any format that gives rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avalanche_vlm.benchmarks.label_space import PHOTO, PromptTemplates, StreamKind, Visible
from avalanche_vlm.benchmarks.scenario import ReferencePairs, VLMBenchmark
from avalanche_vlm.benchmarks.sources.assemble import Item, OnError, Problems, assemble, in_order, readable, split_items
from avalanche_vlm.benchmarks.sources.class_names import UNNAMED, ClassNames, choose_names
from avalanche_vlm.benchmarks.sources.images import ImageFiles
from avalanche_vlm.benchmarks.sources.registry import Row, read_rows
from avalanche_vlm.benchmarks.sources.splits import split_of
from avalanche_vlm.errors import InputError


def table_stream(
    path: str | Path,
    *,
    train_transform: Callable,
    eval_transform: Callable,
    tokenizer: Callable | None = None,
    image_root: str | Path | None = None,
    templates: PromptTemplates = PHOTO,
    label_space: Visible = "task",
    kind: StreamKind | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    on_error: OnError = "raise",
    name: str | None = None,
    order: Sequence[str] | None = None,
    class_names: ClassNames | None = None,
) -> VLMBenchmark:
    """A stream from a table with the columns ``image``, ``label`` and/or ``caption``, ``task``, ``split``.

    With ``label`` it is class-labelled, with only ``caption`` an image-text stream. Without ``task`` all rows are one
    task; without ``split`` (``train``, ``val`` or ``test``) the rows are split at random, within each class where there
    are classes. Validation rows make the stream ``valid`` where there are test rows, and are what is tested where there
    are none. Every image is decoded once, up front.

    :param path: ``.csv``, ``.tsv`` or ``.jsonl``, UTF-8.
    :param train_transform: PIL image to tensor, the model's.
    :param eval_transform: the model's transform of test images, PIL image to tensor.
    :param tokenizer: the model's, for pairs.
    :param image_root: what relative image paths are relative to; the table's folder by default.
    :param templates: prompts around the class names.
    :param label_space: which classes compete.
    :param kind: ``"classes"`` or ``"pairs"`` where the table has both columns; classes by default.
    :param test_fraction: share kept for testing where the table does not say, in (0, 1).
    :param seed: seed of the random split, 0 or more.
    :param on_error: ``"raise"`` stops at the first row that cannot be used, ``"skip"`` leaves it out and says so in
        ``benchmark.data.skipped``.
    :param name: name of the benchmark; the file's by default.
    :param order: tasks in the order of the stream; of first appearance by default.
    :param class_names: names of the classes, by label or in order, or a file with them
        (:func:`~avalanche_vlm.benchmarks.sources.class_names.names_for`); by default a file ``classes.txt`` beside the
        table, if there is one that fits, or else the labels themselves.
    :raises InputError: in one sentence with the row's line number, for everything that cannot be used.
    """
    path = Path(path)
    problems = Problems(on_error)
    rows = list(read_rows(path, problems))
    columns = {column for _, fields in rows for column in fields}
    if kind not in (None, "classes", "pairs"):
        raise InputError(f"kind is classes or pairs, not {kind!r}")
    kind = kind or ("classes" if "label" in columns else "pairs")
    text_column = "label" if kind == "classes" else "caption"
    items = _items(path, rows, text_column, image_root, problems)
    if kind == "pairs" and class_names is not None:
        raise InputError(f"class_names does not apply to {path}: it is a table of captions")
    if kind == "pairs" and tokenizer is None:
        raise InputError(f"{path} is a table of captions: give the model's tokenizer")
    if not items:
        raise InputError(f"{path} has no usable rows")
    tasks = in_order(list(dict.fromkeys(item.task for item in items)), order)
    items = readable([item for item in items if item.task in tasks], problems)
    names = choose_names(class_names, [item.text for item in items], path) if kind == "classes" else UNNAMED
    given = {bool(item.split) for item in items}
    items = split_items(items, test_fraction, seed, by_class=kind == "classes", problems=problems)
    return assemble(
        name or path.stem,
        kind,
        items,
        tasks,
        train_transform=train_transform,
        eval_transform=eval_transform,
        tokenizer=tokenizer,
        templates=templates,
        label_space=label_space,
        problems=problems,
        protocol={
            "path": str(path),
            "split_seed": None if given == {True} else seed,
            "split": "column" if given == {True} else "random" if given == {False} else "column and random",
            "test_fraction": None if given == {True} else test_fraction,
        },
        names=names,
    )


def pairs_stream(path: str | Path, **options: Any) -> VLMBenchmark:
    """An image-text stream from the ``image`` and ``caption`` columns of a table; options of :func:`table_stream`."""
    return table_stream(path, kind="pairs", **options)


def reference_table(
    path: str | Path,
    *,
    transform: Callable,
    image_root: str | Path | None = None,
    on_error: OnError = "raise",
) -> ReferencePairs:
    """Reference pairs from the ``image`` and ``caption`` columns of a table.

    :param path: ``.csv``, ``.tsv`` or ``.jsonl``.
    :param transform: PIL image to tensor, the model's for evaluation.
    :param image_root: what relative image paths are relative to; the table's folder by default.
    :param on_error: ``"raise"``, or ``"skip"``, which says what it left out in ``skipped`` of the pairs.
    :raises InputError: in one sentence, for everything that cannot be used.
    """
    path = Path(path)
    problems = Problems(on_error)
    items = readable(_items(path, list(read_rows(path, problems)), "caption", image_root, problems), problems)
    if not items:
        raise InputError(f"{path} has no usable rows")
    captions = tuple(i.text for i in items)
    images = ImageFiles([i.image for i in items])
    return ReferencePairs(images, captions, transform, tuple(problems.skipped), str(path))


def _items(
    path: Path, rows: Sequence[Row], text_column: str, image_root: str | Path | None, problems: Problems
) -> list[Item]:
    if not rows:
        raise InputError(f"{path} has no usable rows")
    columns = {column for _, fields in rows for column in fields}
    for column in ("image", text_column):
        if column not in columns:
            raise InputError(f"{path} has no column {column!r}; it has {', '.join(sorted(map(str, columns)))}")
    folder = Path(image_root) if image_root is not None else path.parent
    if not folder.is_dir():
        raise InputError(f"image_root: there is no folder at {folder}")
    items = []
    for line, fields in rows:
        where = f"{path}, row {line}"
        values = {name: str(value).strip() for name, value in fields.items() if value is not None}
        if not values.get("image"):
            problems.add(f"{where}: the image is missing")
        elif not values.get(text_column):
            problems.add(f"{where}: the {text_column} is empty")
        elif not isinstance(fields[text_column], (str, int, float)) or not _encodable(values[text_column]):
            problems.add(f"{where}: the {text_column} is not text")
        elif "task" in columns and not values.get("task"):
            problems.add(f"{where}: the task is empty")
        elif values.get("split") and not split_of(values["split"]):
            problems.add(f"{where}: split is train, val or test, not {values['split']!r}")
        else:
            task, split = values.get("task", "all"), split_of(values.get("split", "")) or ""
            items.append(Item(folder / values["image"], values[text_column], task, split, where))
    return items


def _encodable(text: str) -> bool:
    """False for half a surrogate pair, which JSON can hold and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
