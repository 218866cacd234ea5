"""Parquet tables as data hubs keep them: images as bytes in a column, classes as numbers with names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from avalanche_vlm.benchmarks.sources.cells import SUFFIX, rows_in
from avalanche_vlm.benchmarks.sources.ordering import natural
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row
from avalanche_vlm.benchmarks.sources.splits import split_of
from avalanche_vlm.errors import InputError

FOLDERS = ("", "data")
"""Where a folder has its tables: in itself, or in a folder of this name."""


def parquet_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a Parquet table, or of all those of a folder.

    In a folder the part of the data set is what a table's name begins with, as in ``test-00000-of-00004.parquet``.

    :param path: a Parquet file, or a folder with some.
    :param problems: nothing is added: what is wrong with an image is seen when it is checked.
    :return: number of each row, from 1, and its fields; images are paths that lead into the table, relative to the
        folder.
    :raises InputError: in one sentence, without the ``datasets`` library, and for a file that cannot be read.
    """
    number = 0
    for table in _tables(path):
        split = split_of(table.stem.split("-")[0]) if path.is_dir() else None
        below = f"{table.parent.name}/" if path.is_dir() and table.parent != path else ""
        for fields in rows_in(table):
            number += 1
            row = {name: value for name, value in fields.items() if value is not None}
            row |= {name: f"{below}{value}" for name, value in row.items() if _leads_into(table, value)}
            yield number, {**row, **({"split": split} if split and "split" not in row else {})}


def _leads_into(table: Path, value: object) -> bool:
    return isinstance(value, str) and value.startswith(f"{table.name}/")


def _tables(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    for folder in (path / name for name in FOLDERS):
        if found := sorted((of for of in folder.glob(f"*{SUFFIX}") if of.is_file()), key=lambda of: natural(of.name)):
            return found
    raise InputError(f"{path} has no Parquet tables")
