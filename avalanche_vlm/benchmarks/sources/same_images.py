"""Which image files hold the same picture, and what that does to a split."""

from __future__ import annotations

import filecmp
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avalanche_vlm.benchmarks.sources.contents import contents_of
from avalanche_vlm.benchmarks.sources.inside import container_of, content_inside, leading_inside, size_at
from avalanche_vlm.benchmarks.sources.items import Items
from avalanche_vlm.benchmarks.sources.manifest import Files, look_at
from avalanche_vlm.errors import DataWarning

_TOGETHER = 1 << 14
"""Values that are looked up together, so that what that takes does not grow with the data."""


def same_images(images: Sequence[str | Path], files: Files | None = None) -> dict[str, str]:
    """Which of some files hold the same picture: one file by several paths, or equal bytes.

    :param images: paths of N files that exist, each once.
    :param files: what the system says of them; None to look at them.
    :return: the earlier path with the same picture, by each path that has one.
    """
    found = same_rows(images, files)
    other = np.flatnonzero(found != np.arange(len(found))).tolist()
    return {os.fspath(images[row]): os.fspath(images[int(found[row])]) for row in other}


def same_rows(images: Sequence[str | Path], files: Files | None = None) -> np.ndarray:
    """For each of some files the first one that holds the same picture ``[N]``, itself where none does before it.

    Bytes are read of files of equal length alone.

    :param images: paths of N files that exist, each once.
    :param files: what the system says of them; None to look at them.
    """
    files = look_at(images) if files is None else files
    # Size and times as well: there are disks that give a number to more than one file.
    first = _first_alike([files.places, *files.states.T])
    rows = np.flatnonzero(first == np.arange(len(first))).astype(first.dtype)
    sizes = files.states[:, 0]
    if inside := [row for row in leading_inside(images) if first[row] == row]:
        sizes = sizes.copy()
        sizes[inside] = [size_at(Path(images[row])) for row in inside]
    rows = rows[_several(sizes[rows])]
    # A digest is of the size as well.
    by_content = _first_alike([contents_of(images, files, rows)])
    for place in np.flatnonzero(by_content != np.arange(len(rows))).tolist():
        row, other = int(rows[place]), int(rows[by_content[place]])
        # Of large files the digest knows the ends alone.
        if _equal(Path(images[other]), Path(images[row])):
            first[row] = other
    return first[first]  # of a path whose file holds what another one does: the file, and then the other


def _first_alike(columns: Sequence[np.ndarray]) -> np.ndarray:
    """For each row of K columns ``[N]`` the first row that is equal to it ``[N]``."""
    column, *others = columns
    kind = np.min_scalar_type(max(len(column), 1))
    ordered = np.sort(column)
    if (ordered[1:] != ordered[:-1]).all():
        return np.arange(len(column), dtype=kind)
    del ordered
    order = np.lexsort(columns)  # stable: of equal rows the first comes first
    begins = np.ones(len(order), bool)
    begins[1:] = column[order[1:]] != column[order[:-1]]
    for other in others:
        begins[1:] |= other[order[1:]] != other[order[:-1]]
    found = np.empty(len(order), kind)
    found[order] = order[begins][np.cumsum(begins) - 1]
    return found


def _several(values: np.ndarray) -> np.ndarray:
    """Which values ``[N]`` occur more than once ``[N]``."""
    ordered = np.sort(values)
    alike = ordered[1:] == ordered[:-1]
    first_of_run = alike.copy()
    first_of_run[1:] &= ~alike[:-1]
    again = ordered[1:][first_of_run]
    del ordered, alike, first_of_run
    found = np.zeros(len(values), bool)
    for start in range(0, len(values) if len(again) else 0, _TOGETHER):
        some = values[start : start + _TOGETHER]
        found[start : start + _TOGETHER] = again[np.minimum(np.searchsorted(again, some), len(again) - 1)] == some
    return found


def _equal(one: Path, other: Path) -> bool:
    if container_of(one) is None and container_of(other) is None:
        return filecmp.cmp(one, other, shallow=False)
    contents = (content_inside(of) if container_of(of) is not None else of.read_bytes() for of in (one, other))
    return next(contents) == next(contents)


def shared(items: Items, stands: np.ndarray, classes: bool) -> list[str]:
    """Sentences on pictures that are trained and tested, and on those that have two classes in one task.

    :param items: samples that all have a split.
    :param stands: which of their images stands for the picture of each, as :func:`same_rows` finds it.
    :param classes: whether the texts are classes.
    :return: a sentence each, of which the first kind is warned of as well.
    """
    pictures = stands[items.image.codes]
    several = np.flatnonzero(_several(pictures))
    splits: dict[str, set[str]] = {}
    texts: dict[tuple[str, str], set[str]] = {}
    paths = items.image.values
    for picture, item in zip(pictures[several].tolist(), map(items.__getitem__, several.tolist()), strict=True):
        image = paths[picture]
        splits.setdefault(image, set()).add(item.split)
        texts.setdefault((item.task, image), set()).add(item.text)
    said = []
    for split, word in (("test", "tested"), ("valid", "validation images")):
        if both := [image for image, of in splits.items() if {"train", split} <= of]:
            said.append(
                f"{_images(len(both))} both trained and {word} (by path or by content), such as {both[0]}: figures on "
                "them say what was remembered"
            )
            warnings.warn(said[-1], DataWarning, stacklevel=4)
    ambiguous = {image: of for (_, image), of in texts.items() if len(of) > 1} if classes else {}
    if ambiguous:
        image, of = next(iter(ambiguous.items()))
        listed = " and ".join(map(repr, sorted(of)))
        said.append(
            f"{_images(len(ambiguous))} in more than one class (by path or by content), such as {image} in {listed}"
        )
    return said


def _images(n: int) -> str:
    return f"{n} image{' is' if n == 1 else 's are'}"
