"""Rows of folders of pictures that a table in them describes, as Hugging Face's datasets lay them out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row, read_rows
from avalanche_vlm.benchmarks.sources.splits import split_of

TABLES = ("metadata.csv", "metadata.jsonl")
"""Names of the tables that describe a folder."""


def described_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of ``metadata.csv`` or ``metadata.jsonl`` in a folder, or in its folders of splits.

    :param path: the folder that holds the table, or folders of splits with one each.
    :param problems: takes rows that cannot be used.
    :return: line number and fields of each row; images are relative to the folder.
    """
    folders = [path, *sorted(child for child in path.iterdir() if child.is_dir() and split_of(child.name))]
    for folder in folders:
        for table in (folder / name for name in TABLES):
            if not table.is_file():
                continue
            for line, fields in read_rows(table, problems):
                if folder == path:
                    yield line, fields
                    continue
                key = next((name for name in ("file_name", "image") if name in fields), "image")
                moved = {key: f"{folder.name}/{fields[key]}"} if fields.get(key) else {}
                yield line, {**fields, **moved, "split": folder.name}
