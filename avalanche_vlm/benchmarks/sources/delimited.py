"""Rows of CSV and TSV tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row
from avalanche_vlm.benchmarks.sources.text import lines_of
from avalanche_vlm.errors import InputError

TEXTS = ("caption", "text", "comment", "sentence")
"""Columns of running text, in which there may be commas."""


def comma_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a CSV table; a header without commas says by ``|``, ``;`` or tabs that all fields are separated so.

    :param path: the table, with a header line.
    :param problems: takes rows that are malformed.
    :return: line number and fields of each row.
    :raises InputError: if the table as a whole cannot be read.
    """
    return _separated(path, ",", problems)


def tab_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a table whose fields are separated by tabs.

    :param path: the table, with a header line.
    :param problems: takes rows that are malformed.
    :return: line number and fields of each row.
    :raises InputError: if the table as a whole cannot be read.
    """
    return _separated(path, "\t", problems)


def _separated(path: Path, usual: str, problems: Problems) -> Iterator[Row]:
    lines = lines_of(path)
    header = next(lines, "")
    return rows_of(path, chain([header], lines), problems, _delimiter(path, header, usual, problems))


def _delimiter(path: Path, header: str, usual: str, problems: Problems) -> str:
    """What separates the names of the header: what the file's name says where it occurs, and otherwise what does."""
    found = next((sign for sign in (usual, "\t", ";", "|", ",") if sign in header), usual)
    if found not in (usual, "|"):
        problems.notes.append(f"{path} separates its fields with {'tabs' if found == chr(9) else repr(found)}")
    return found


def rows_of(path: Path, lines: Iterable[str], problems: Problems, delimiter: str) -> Iterator[Row]:
    """The rows of a table, read as they are asked for.

    :param path: the table, for messages.
    :param lines: its lines with their ends, the header first.
    :param problems: takes rows that are malformed.
    :param delimiter: what separates fields; behind ``|`` quotes are signs like others, as in Flickr30k's list. What is
        too many at the end of a row belongs to a caption in the last column, as in Flickr8k's list, with a note.
    :return: line number and fields of each row.
    :raises InputError: if the table as a whole cannot be read.
    """
    if delimiter == "|":
        reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line, longer = 1, 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            if longer:
                rows = "1 row" if longer == 1 else f"{longer} rows"
                problems.notes.append(
                    f"{path} has {rows} with {delimiter!r} in a text without quotes: a part of the text"
                )
            return
        except csv.Error as error:
            # A quote that never closes swallows the rest of the file, which must not pass for one bad row.
            if header is None or "unexpected end" in str(error):
                raise InputError(f"{path}, row {line}: a quoted field is not closed properly ({error})") from error
            problems.add(f"{path}, row {line}: {error}")
            line = reader.line_num + 1
            continue
        start, line = line, reader.line_num + 1
        if not fields:
            continue
        if header is None:
            header = [field.strip().lower() for field in fields]
            for column in header:
                if header.count(column) > 1:
                    raise InputError(f"{path} has more than one column called {column!r}")
        elif len(fields) > len(header) > 1 and header[-1] in TEXTS:
            longer += 1
            yield (
                start,
                dict(zip(header, [*fields[: len(header) - 1], delimiter.join(fields[len(header) - 1 :])], strict=True)),
            )
        elif len(fields) != len(header):
            problems.add(f"{path}, row {start}: {len(fields)} fields where the header has {len(header)}")
        else:
            yield start, dict(zip(header, fields, strict=True))
