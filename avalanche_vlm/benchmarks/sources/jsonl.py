"""Rows of JSONL tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row
from avalanche_vlm.benchmarks.sources.text import lines_of


def json_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a JSONL table.

    :param path: the table, one JSON object per line.
    :param problems: takes lines that hold something else.
    :return: line number and fields of each row.
    :raises InputError: if the table as a whole cannot be read.
    """
    for line, content in enumerate(lines_of(path), start=1):
        if not content.strip():
            continue
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            # Besides malformed text: integers of thousands of digits and bottomless nesting.
            problems.add(f"{path}, row {line}: not JSON ({getattr(error, 'msg', error)})")
            continue
        if isinstance(fields, dict):
            yield line, fields
        else:
            problems.add(f"{path}, row {line}: expected a JSON object")
