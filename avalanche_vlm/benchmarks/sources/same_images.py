"""Which image files hold the same picture, and what that does to a split."""

from __future__ import annotations

import filecmp
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from avalanche_vlm._content import file_digest
from avalanche_vlm.benchmarks.sources.inside import container_of, content_inside, digest_inside, size_at
from avalanche_vlm.errors import DataWarning


class Placed(Protocol):
    """A sample whose image, text, task and split are known."""

    @property
    def image(self) -> Path:
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


def same_images(images: Iterable[Path]) -> dict[Path, Path]:
    """The first of the files that hold the same picture, for each: one file by several paths, or equal bytes.

    Bytes are read of files of equal length alone.

    :param images: paths of files that exist.
    :return: the path that stands for the picture of each, in the order of the paths.
    """
    places = {path: _place(path) for path in dict.fromkeys(images)}
    by_place: dict[Path, Path] = {}
    for path, place in places.items():
        by_place.setdefault(place, path)
    by_size: dict[int, list[Path]] = {}
    for path in by_place.values():
        by_size.setdefault(size_at(path), []).append(path)
    by_content: dict[str, Path] = {}
    stands = {path: path for path in by_place.values()}
    for paths in by_size.values():
        for path in paths if len(paths) > 1 else ():
            first = by_content.setdefault(_digest(path), path)
            # Of large files the digest knows the ends alone.
            if first is not path and _equal(first, path):
                stands[path] = first
    return {path: stands[by_place[place]] for path, place in places.items()}


def _place(path: Path) -> Path:
    """Where a picture really lies: a tar may be a link to a file whose name says nothing of one."""
    container = container_of(path)
    return path.resolve() if container is None else container.resolve() / path.relative_to(container)


def _digest(path: Path) -> str:
    return file_digest(path) if container_of(path) is None else digest_inside(path)


def _equal(one: Path, other: Path) -> bool:
    if container_of(one) is None and container_of(other) is None:
        return filecmp.cmp(one, other, shallow=False)
    contents = (content_inside(of) if container_of(of) is not None else of.read_bytes() for of in (one, other))
    return next(contents) == next(contents)


def shared(items: Sequence[Placed], same: dict[Path, Path], classes: bool) -> list[str]:
    """Sentences on pictures that are trained and tested, and on those that have two classes in one task.

    :param items: samples that all have a split.
    :param same: which path stands for the picture of each, as :func:`same_images` finds it.
    :param classes: whether the texts are classes.
    :return: a sentence each, of which the first kind is warned of as well.
    """
    splits: dict[Path, set[str]] = {}
    texts: dict[tuple[str, Path], set[str]] = {}
    for item in items:
        splits.setdefault(same[item.image], set()).add(item.split)
        texts.setdefault((item.task, same[item.image]), set()).add(item.text)
    said = []
    for split, word in (("test", "tested"), ("valid", "validation images")):
        if both := [image for image, of in splits.items() if {"train", split} <= of]:
            said.append(
                f"{_images(len(both))} both trained and {word} (by path or by content), such as {both[0]}: figures on "
                "them say what was remembered"
            )
            warnings.warn(said[-1], DataWarning, stacklevel=4)
    several = {image: of for (_, image), of in texts.items() if len(of) > 1} if classes else {}
    if several:
        image, of = next(iter(several.items()))
        listed = " and ".join(map(repr, sorted(of)))
        said.append(
            f"{_images(len(several))} in more than one class (by path or by content), such as {image} in {listed}"
        )
    return said


def _images(n: int) -> str:
    return f"{n} image{' is' if n == 1 else 's are'}"
