"""Which column of a table is which: by its name, by what other tools call it, or as the user says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avalanche_vlm.benchmarks.label_space import StreamKind
from avalanche_vlm.benchmarks.sources.registry import Row
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import did_you_mean

COLUMNS = ("image", "label", "caption", "task", "split")
"""What a table may say of a sample."""

_ALSO = {"image": ("file_name", "image_name"), "caption": ("text", "comment", "captions", "sentences", "sentence")}
"""Names in the image folders of Hugging Face's datasets, in COCO's files, and in lists of Flickr's pictures."""


TASKS_FROM = ("task", "domain", "time")
"""Columns that may say which task a sample is of: by the task's name, by a domain, or by a time."""


def task_said(options: Mapping[str, str | None]) -> tuple[str, str | None]:
    """Which column says the tasks.

    :param options: the column that was named for each of :data:`TASKS_FROM`, None where none was.
    :return: which of them it is, ``task`` where none was named, and the column's name.
    :raises InputError: if more than one was named.
    """
    named = [(of, name) for of in TASKS_FROM if (name := options.get(of))]
    if len(named) > 1:
        (first, _), (second, _), *_ = named
        raise InputError(f"{first}_column and {second}_column both say which task a sample is of: give one of them")
    return named[0] if named else ("task", None)


def under_our_names(rows: Sequence[Row], given: Mapping[str, str | None], path: Path, tasks: str = "task") -> list[Row]:
    """Rows under our names of columns.

    :param rows: rows as they were read.
    :param given: the table's name of each of :data:`COLUMNS` that the user has named.
    :param path: the table, for messages.
    :param tasks: what the column of the tasks was named as, of :data:`TASKS_FROM`.
    :return: the rows with the columns that were named, and all others as they are; a row with a list of captions gives
        one for each.
    :raises InputError: if a column that was named does not exist.
    """
    present = {column for _, fields in rows for column in fields}
    renames: dict[str, str] = {}
    for column in COLUMNS:
        if asked := given.get(column):
            found = next((name for name in (asked, asked.strip().lower()) if name in present), None)
            if found is None and rows:
                listed = ", ".join(sorted(map(str, present)))
                called = tasks if column == "task" else column
                near = did_you_mean(asked, map(str, present)).strip(" ()")
                note = f"{called}_column; {near}" if near else f"{called}_column"
                raise InputError(f"{path} has no column {asked!r} ({note}); it has {listed}")
            renames[column] = found or asked
        elif column not in present:
            also = next((name for name in _ALSO.get(column, ()) if name in present), None)
            if also:
                renames[column] = also
    return [(line, of) for line, fields in rows for of in _one_caption_each(dict(_renamed(fields, renames)))]


def _one_caption_each(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    captions = fields.get("caption")
    if not isinstance(captions, list):
        yield fields
        return
    for caption in captions or [None]:
        yield {**fields, "caption": caption.get("raw") if isinstance(caption, dict) else caption}


def _renamed(fields: Mapping[str, Any], renames: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if name not in renames:  # a column that another one stands in for is not read
            yield name, value
    for column, name in renames.items():
        if name in fields:
            yield column, fields[name]


def kind_of(rows: Sequence[Row], kind: StreamKind | None, given: Mapping[str, str | None], path: Path) -> StreamKind:
    """What the samples of a table are.

    :param rows: rows under our names of columns.
    :param kind: what the user says; None for nothing.
    :param given: the columns that the user has named.
    :param path: the table, for messages.
    :return: ``"classes"`` where there are labels, ``"pairs"`` where there are captions.
    :raises InputError: if there are both and nothing says which are meant.
    """
    if kind not in (None, "classes", "pairs"):
        raise InputError(f"kind is classes or pairs, not {kind!r}")
    present = {column for _, fields in rows for column in fields}
    if kind is None and {"label", "caption"} <= present:
        if bool(given.get("label")) == bool(given.get("caption")):
            raise InputError(
                f"{path} has labels and captions: say with kind (--kind) whether it is a stream of classes or of pairs"
            )
        return "classes" if given.get("label") else "pairs"
    return kind or ("classes" if "label" in present else "pairs")
