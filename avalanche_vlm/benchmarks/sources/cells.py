"""Cells of Parquet tables by path, ``table.parquet/image/12``: the bytes of an image in a column, and rows besides.

The ``datasets`` library reads the table, from a local file alone: it is copied once into Arrow's layout in the cache
folder, from where every row can be mapped into memory by itself, whatever the size of the table. A table that has
changed is copied again. Nothing in a table is run: images stay bytes until Pillow decodes them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote

from avalanche_vlm._given import open_regular
from avalanche_vlm.benchmarks.sources.cache import cache_folder
from avalanche_vlm.errors import InputError

SUFFIX = ".parquet"
EXTRA = "parquet"

_TABLES: dict[str, tuple[tuple[int, int], Any]] = {}
"""Tables that are open in this process, with length and time of the last change, by path."""
_MAGIC = b"PAR1"
ROWS = 1000
"""Rows that are read together."""


def rows_in(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table without its images, of which paths stand in their columns.

    Classes that the table has names for are these names.

    :param path: a Parquet file.
    :raises InputError: in one sentence, if it cannot be read.
    """
    table = opened_table(path)
    images = [name for name, kind in table.features.items() if _holds_bytes(kind)]
    rest = [name for name in table.features if name not in images]
    names = {name: of.names for name, of in table.features.items() if hasattr(of, "int2str")}
    number = 0
    for rows in _batches(path, table, rest):
        for row in rows:
            for name, of_names in names.items():
                # A number below 0 stands for no class, as in parts whose labels are kept from everybody.
                if isinstance(at := row[name], int) and at < len(of_names):
                    row[name] = of_names[at] if at >= 0 else None
            yield {**row, **{name: f"{path.name}/{quote(name, safe='')}/{number}" for name in images}}
            number += 1


def _batches(path: Path, table: Any, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of some columns, many at a time."""
    if not len(table):
        return
    if not columns:
        found: list[dict[str, Any]] = [{} for _ in range(len(table))]
        yield found
        return
    number = 0
    for part in table.select_columns(columns).iter(ROWS):
        try:
            yield part.to_pylist()
        except (ValueError, OverflowError) as error:  # a date that Python has none for, text of another encoding
            why = " ".join(str(error).split())
            raise InputError(f"{path} has a value in rows {number + 1} to {number + len(part)} that {why}") from error
        number += len(part)


def cell_at(table: Path, path: Path) -> tuple[int, Callable[[], bytes]]:
    """The image in a cell.

    :param table: the Parquet file.
    :param path: path of the cell: the table's, the column, the number of the row from 0.
    :return: the number of its bytes, and what reads them.
    :raises InputError: in one sentence, if there is no such cell, or it holds no bytes.
    """
    column, row = _place(table, path)
    found = opened_table(table)
    if not _holds_bytes(found.features.get(column)) or not 0 <= row < len(found):
        raise InputError(f"{table} has no image in row {row + 1} of a column {column!r}")
    value = found[row][column][0]
    if value.is_valid and hasattr(value, "keys"):  # a structure
        value = value["bytes"]
    if not value.is_valid:
        raise InputError(f"{table} has no bytes in row {row + 1} of the column {column!r}")
    there = memoryview(value.as_buffer())
    return len(there), there.tobytes


def opened_table(path: Path) -> Any:
    """A table whose rows can be had in any order; images are not decoded.

    :param path: a Parquet file.
    :raises InputError: in one sentence, without the ``datasets`` library, and for a file that is none.
    """
    known = os.stat(path)
    state = known.st_size, known.st_mtime_ns
    found = _TABLES.get(str(path))
    if found is None or found[0] != state:
        found = _TABLES[str(path)] = state, _read(path)
    return found[1]


def _read(path: Path) -> Any:
    datasets = _datasets(path)
    with open_regular(path) as file:
        ends = file.read(4), file.seek(-min(4, os.fstat(file.fileno()).st_size), os.SEEK_END) and file.read(4)
    if ends != (_MAGIC, _MAGIC):
        raise InputError(f"{path} is no Parquet file, or not all of one: it does not begin and end as they do")
    shown, told = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what is wrong is said in one sentence, and by us
    try:
        table = datasets.Dataset.from_parquet(str(path), cache_dir=str(cache_folder() / "parquet"))
        table = table.with_format("arrow")  # of which nothing is decoded, whatever a column says that it is
    except Exception as error:  # Arrow and its reader raise errors of many kinds
        if _is_empty(path):  # of which the library says that BatchSize must be greater than 0
            raise InputError(f"{path} has no rows") from error
        cause = error.__cause__ or error
        raise InputError(f"{path} cannot be read: {' '.join(str(cause).split()) or type(cause).__name__}") from error
    finally:
        datasets.logging.set_verbosity(told)
        if shown:
            datasets.enable_progress_bars()
    return table


def _is_empty(path: Path) -> bool:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:  # then the library has not come so far
        return False
    try:
        return parquet.read_metadata(path).num_rows == 0
    except (ArrowException, OSError):
        return False


def _datasets(path: Path) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{path} is read with the package datasets, which is not installed: pip install 'avalanche-vlm[{EXTRA}]'"
        ) from error
    return datasets


def _holds_bytes(kind: Any) -> bool:
    """Whether a column has images: structures with ``bytes``, as data hubs have them, or plain bytes."""
    if isinstance(kind, dict):
        return _dtype(kind.get("bytes")) in ("binary", "large_binary")
    return type(kind).__name__ == "Image" or _dtype(kind) in ("binary", "large_binary")


def _dtype(kind: Any) -> str:
    return str(getattr(kind, "dtype", ""))


def _place(table: Path, path: Path) -> tuple[str, int]:
    parts = path.relative_to(table).parts
    if len(parts) != 2 or not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) < 19):
        raise InputError(f"{path} leads to no cell of {table}: its column and the number of its row follow the table")
    return unquote(parts[0]), int(parts[1])
