"""Answers as rows of a table or objects a line, on standard output or in a file that is there whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage import written
from avalanche_vlm.units import as_cell, visible

SUFFIXES = (".csv", ".jsonl")
"""Ends of the names of files that answers can be written to."""

TableRow = Mapping[str, Any]
"""What a table has in a row, by the column's name."""


@contextmanager
def answers_to(target: Path | None, columns: Sequence[str]) -> Iterator[Callable[[Sequence[TableRow], TableRow], None]]:
    """Where answers go.

    Bytes of file names that are no text are written with backslashes.

    :param target: a file, whose suffix says the format; None for a table on standard output.
    :param columns: names of the table's columns.
    :return: a function of an answer's rows in a table and of the answer as one object, called for answer after answer.
    :raises InputError: if the file cannot be written, naming it; it is what it was then.
    """
    if target is None:
        encoding = sys.stdout.encoding or "utf-8"
        yield _table(_Printed(encoding), columns)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written(target) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
            if target.suffix.lower() == ".csv":
                yield _table(text, columns)
            else:
                yield lambda _, whole: _print_line(text, whole)
            text.flush()
            text.detach()
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _print_line(file: io.TextIOWrapper, whole: TableRow) -> None:
    file.write(json.dumps(whole, ensure_ascii=False, allow_nan=False) + "\n")


def _table(file: Any, columns: Sequence[str]) -> Callable[[Sequence[TableRow], TableRow], None]:
    """A table that has its head, and a function that adds an answer's rows to it."""
    table = csv.DictWriter(file, columns, lineterminator="\n")
    table.writeheader()
    return lambda rows, _: table.writerows(map(_cells, rows))


def _cells(row: TableRow) -> dict[str, Any]:
    """A row as a table has it: true, false, nothing where there is none, and no formulas."""
    return {name: json.dumps(value) if isinstance(value, bool) else as_cell(value) for name, value in row.items()}


class _Printed:
    """Standard output for a table, whatever its encoding has letters for."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding

    def write(self, text: str) -> None:
        """Print what the encoding has and no terminal obeys, and backslashes for the rest: a file has names as they
        are."""
        sys.stdout.write(visible(text).encode(self.encoding, "backslashreplace").decode(self.encoding))
