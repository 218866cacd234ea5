"""Images wherever a user has them: files, folders and tables, one after another, however many there are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from avalanche_vlm.benchmarks.sources.columns import under_our_names
from avalanche_vlm.benchmarks.sources.images import EXTENSIONS
from avalanche_vlm.benchmarks.sources.ordering import natural
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import FORMATS, read_rows
from avalanche_vlm.benchmarks.sources.table import file_of_image
from avalanche_vlm.errors import InputError


class Gathered(NamedTuple):
    """An image that was found, or a sentence on what was found in the place of one.

    :param name: what the image is called: its path, and in a table what the table calls it.
    :param path: the image file; None where there is none.
    :param problem: a sentence on why there is none; None where there is one.
    """

    name: str
    path: Path | None
    problem: str | None = None


def gathered(
    paths: Sequence[str | Path], image_column: str | None = None, image_root: str | Path | None = None
) -> Iterator[Gathered]:
    """The images of several places, in the order of the places. Nothing stops the search: what cannot be used is told.

    A folder gives the images beneath it by their extensions, folder by folder in natural order (2 before 10), files
    before folders, without hidden ones; of a table, told by its suffix, every row gives one; everything else is taken
    for an image file. The names of one folder are held at a time, and the rows of one table.

    :param paths: files, folders and tables.
    :param image_column: name of the tables' column with image paths; ``image`` (or ``file_name``, ``image_name``) by
        default.
    :param image_root: what relative paths of tables are relative to; the table's folder by default.
    :return: the images, and a sentence for each thing that is none.
    """
    for given in paths:
        path = Path(given)
        if os.path.isdir(path):  # unlike Path.is_dir, no error where a folder above cannot be entered
            found = False
            for entry in _beneath(path, ()):
                found = True
                yield entry
            if not found:
                yield Gathered(str(path), None, f"there is no image in the folder {path}")
        elif is_table(path):
            yield from _rows(path, image_column, image_root)
        else:
            yield Gathered(str(path), path)


def is_table(path: Path) -> bool:
    """Whether a file is a table by the end of its name.

    :param path: a file that need not be there.
    """
    name = path.name.lower()
    return any(known.rows is not None and known.suffixes and name.endswith(known.suffixes) for known in FORMATS)


def _beneath(folder: Path, above: tuple[str, ...]) -> Iterator[Gathered]:
    real = os.path.realpath(folder)
    if real in above:
        return  # a link to a folder that it lies in
    try:
        with os.scandir(folder) as entries:
            seen = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        yield Gathered(str(folder), None, f"cannot read the folder {folder}: {error.strerror or error}")
        return
    seen.sort(key=lambda entry: natural(entry[0]))
    for name, is_folder in seen:
        if not is_folder and Path(name).suffix.lower() in EXTENSIONS:
            yield Gathered(str(folder / name), folder / name)
    for name, is_folder in seen:
        if is_folder:
            yield from _beneath(folder / name, (*above, real))


def _rows(path: Path, image_column: str | None, image_root: str | Path | None) -> Iterator[Gathered]:
    problems = Problems("skip")
    folder = path.parent if image_root is None else Path(image_root)
    try:
        rows = under_our_names(list(read_rows(path, problems)), {"image": image_column}, path)
    except InputError as error:
        yield Gathered(str(path), None, str(error))
        return
    columns = {column for _, fields in rows for column in fields}
    if not rows or "image" not in columns:
        listed = ", ".join(sorted(map(str, columns)))
        why = f"has no column 'image'; it has {listed} (image_column names another)" if rows else "has no usable rows"
        yield Gathered(str(path), None, f"{path} {why}")
        return
    for line, fields in rows:
        given = fields.get("image")
        written = str("" if given is None else given).strip()
        if given is not None and not isinstance(given, str | int | float):
            yield Gathered(f"{path}, row {line}", None, f"{path}, row {line}: the image is no path")
        elif written:
            yield Gathered(written, file_of_image(folder, written))
        else:
            yield Gathered(f"{path}, row {line}", None, f"{path}, row {line}: the image is missing")
    for sentence in problems.skipped:
        yield Gathered(str(path), None, sentence)
