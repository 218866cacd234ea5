"""Rows of lists of captions: Flickr8k's and Flickr30k's token files, and tables that are called ``.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from avalanche_vlm.benchmarks.sources.delimited import rows_of
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import Row
from avalanche_vlm.benchmarks.sources.text import lines_of
from avalanche_vlm.errors import InputError

_NUMBERED = re.compile(r"(.+?)#\d+\t(.*)")
_IMAGE = re.compile(r"[^\t,|]+\.\w{2,5}\t")


def list_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The rows of a list of captions; a picture with several captions has several.

    Read are lines ``image.jpg#0<TAB>caption``, lines ``image.jpg<TAB>caption``, and tables with a header line whose
    fields are separated by commas, tabs or ``|``.

    :param path: the list of captions, a text file.
    :param problems: takes lines that are malformed.
    :return: number and fields of each line.
    :raises InputError: if the first line says none of this.
    """
    lines = lines_of(path)
    first, lines = _first_said(lines)
    if _NUMBERED.fullmatch(first) or _IMAGE.match(first):
        return _lines(path, lines, problems)
    delimiter = next((sign for sign in ("\t", "|", ";", ",") if sign in first), None)
    if delimiter is None:
        raise InputError(
            f"{path} is no list of captions: a line is image.jpg#0, a tab and a caption, or the first is a header"
        )
    return rows_of(path, lines, problems, delimiter)


def _first_said(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first line that is not empty, without its end, and all lines."""
    read = []
    for line in lines:
        read.append(line)
        if line.strip():
            return line.removesuffix("\n"), chain(read, lines)
    return "", iter(read)


def _lines(path: Path, lines: Iterable[str], problems: Problems) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        image, tab, caption = line.removesuffix("\n").partition("\t")
        if tab:
            yield number, {"image": re.sub(r"#\d+$", "", image.strip()), "caption": caption}
        else:
            problems.add(f"{path}, row {number}: there is no tab between image and caption")
