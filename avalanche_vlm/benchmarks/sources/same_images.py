"""Which image files hold the same picture, and what that does to a split."""

from __future__ import annotations

import filecmp
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from avalanche_vlm.benchmarks.sources.contents import contents_of
from avalanche_vlm.benchmarks.sources.inside import container_of, content_inside, leading_inside, size_at
from avalanche_vlm.benchmarks.sources.manifest import Files, look_at
from avalanche_vlm.errors import DataWarning


class Placed(Protocol):
    """A sample whose image, text, task and split are known."""

    @property
    def image(self) -> str:
        """Path of the image file."""

    @property
    def text(self) -> str:
        """Its class or caption."""

    @property
    def task(self) -> str:
        """Name of its task."""

    @property
    def split(self) -> str:
        """``"train"``, ``"valid"`` or ``"test"``."""


def same_images(images: Sequence[str | Path], files: Files | None = None) -> dict[str, str]:
    """Which of some files hold the same picture: one file by several paths, or equal bytes.

    Bytes are read of files of equal length alone.

    :param images: paths of N files that exist, each once.
    :param files: what the system says of them; None to look at them.
    :return: the earlier path with the same picture, by each path that has one.
    """
    files = look_at(images) if files is None else files
    # Size and times as well: there are disks that give a number to more than one file.
    first = _first_alike(np.concatenate([files.places, files.states], 1))
    rows = np.flatnonzero(first == np.arange(len(first)))
    sizes = files.states[:, 0].copy()
    for row in leading_inside(images):
        if first[row] == row:
            sizes[row] = size_at(Path(images[row]))
    rows = rows[_several(sizes[rows])]
    digests = contents_of([images[row] for row in rows.tolist()], files.at(rows))
    by_content = _first_alike(np.stack([sizes[rows], digests], 1)) if len(rows) else rows
    for row, at in zip(rows.tolist(), by_content.tolist(), strict=True):
        # Of large files the digest knows the ends alone.
        if rows[at] != row and _equal(Path(images[rows[at]]), Path(images[row])):
            first[row] = rows[at]
    other = np.flatnonzero(first != np.arange(len(first))).tolist()
    return {os.fspath(images[row]): os.fspath(images[_stands(first, row)]) for row in other}


def _stands(first: np.ndarray, row: int) -> int:
    """Of a path whose file holds what another one does: the file, and then the other."""
    return int(first[first[row]])


def _first_alike(values: np.ndarray) -> np.ndarray:
    """For each row of ``[N, K]`` the first row that is equal to it ``[N]``."""
    order = np.lexsort(values.T)  # stable: of equal rows the first comes first
    begins = np.ones(len(order), bool)
    begins[1:] = (values[order[1:]] != values[order[:-1]]).any(1)
    found = np.empty(len(order), np.int64)
    found[order] = order[begins][np.cumsum(begins) - 1]
    return found


def _several(values: np.ndarray) -> np.ndarray:
    """Which values ``[N]`` occur more than once ``[N]``."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[inverse] > 1


def _equal(one: Path, other: Path) -> bool:
    if container_of(one) is None and container_of(other) is None:
        return filecmp.cmp(one, other, shallow=False)
    contents = (content_inside(of) if container_of(of) is not None else of.read_bytes() for of in (one, other))
    return next(contents) == next(contents)


def shared(items: Sequence[Placed], same: Mapping[str, str], classes: bool) -> list[str]:
    """Sentences on pictures that are trained and tested, and on those that have two classes in one task.

    :param items: samples that all have a split.
    :param same: which path stands for the picture of another, as :func:`same_images` finds it.
    :param classes: whether the texts are classes.
    :return: a sentence each, of which the first kind is warned of as well.
    """
    several = _repeated(same.get(item.image, item.image) for item in items)
    splits: dict[str, set[str]] = {}
    texts: dict[tuple[str, str], set[str]] = {}
    for item in items if several else ():
        image = same.get(item.image, item.image)
        if image in several:
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


def _repeated(images: Iterable[str]) -> set[str]:
    """Those that come more than once."""
    once: set[str] = set()
    return {image for image in images if image in once or once.add(image)}  # type: ignore[func-returns-value]


def _images(n: int) -> str:
    return f"{n} image{' is' if n == 1 else 's are'}"
