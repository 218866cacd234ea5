"""Rows of any texts, written as a well-formed table: they are read as they were written."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from random import Random

from example import Example, WrongAccept
from mutators import TEXTS

SHARE, QUICK = 110, 40

_COLUMNS = ("image", "caption")
_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".token")
_CODES = ("utf-8", "utf-8-sig", "utf-16")


def make(random: Random) -> Example:
    """Rows as JSON, with how they are to be written."""
    texts = [text for text in TEXTS if text not in ("\0", "\ud800", "\ufeff") and len(text) < 1000]
    texts += [
        "a cat, a dog",
        'say "x"',
        "two\nlines",
        "a\ttab",
        "a|b",
        "semi;colon",
        "\x85",
        "\x1c",
        "\r",
        "\n",
        "#1",
        "x#1\ty",
    ]
    rows = [[f"{random.choice(texts)}.png", random.choice(texts)] for _ in range(random.randrange(1, 6))]
    form = {"suffix": random.choice(_SUFFIXES), "code": random.choice(_CODES), "end": random.choice(("\n", "\r\n"))}
    return Example("rows.json", json.dumps({**form, "rows": rows}).encode())


def check(example: Example, folder: Path) -> None:
    """As many rows with the same texts."""
    from avalanche_vlm.benchmarks.sources.problems import Problems
    from avalanche_vlm.benchmarks.sources.registry import read_rows

    form = json.loads(example.content)
    rows, suffix = form["rows"], form["suffix"]
    if suffix == ".token":  # a line each, so that no text can have an end of one
        rows = [["".join(" " if c in "\t\n\r" else c for c in text) for text in row] for row in rows]
        rows = [[image.strip() or "x", caption] for image, caption in rows]
        content = "".join(f"{image}#0\t{caption}{form['end']}" for image, caption in rows)
    elif suffix in (".csv", ".tsv"):
        out = io.StringIO(newline="")
        writer = csv.writer(
            out, delimiter="," if suffix == ".csv" else "\t", lineterminator=form["end"], quoting=csv.QUOTE_ALL
        )
        writer.writerows([_COLUMNS, *rows])
        content = out.getvalue()
    else:
        records = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        content = json.dumps(records) if suffix == ".json" else form["end"].join(map(json.dumps, records))
    path = folder / f"table{suffix}"
    path.write_bytes(content.encode(form["code"]))
    found = [[fields.get(column) for column in _COLUMNS] for _, fields in read_rows(path, Problems("raise"))]
    if [[_ends(text) for text in row] for row in found] != [[_ends(text) for text in row] for row in rows]:
        raise WrongAccept(f"{rows} were written and {found} read")


def _ends(text: str) -> str:
    """Text with ends of lines as files of text have them everywhere."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
