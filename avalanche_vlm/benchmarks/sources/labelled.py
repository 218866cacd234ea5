"""What the lists of a class-labelled data set come to: its images, their classes and its parts. No image is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from avalanche_vlm.benchmarks.sources.images import ImageFiles
from avalanche_vlm.errors import InputError


@dataclass(frozen=True)
class LabelledPart:
    """Images with class ids.

    :param images: image files, or 8-bit pictures in memory, ``[N, H, W]`` or ``[N, H, W, 3]``.
    :param labels: N class ids.
    """

    images: ImageFiles | np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: Sequence[int] | np.ndarray) -> LabelledPart:
        """Some of the images, in the order given.

        :param rows: places of the images.
        """
        chosen = np.asarray(rows, dtype=np.int64)
        if isinstance(self.images, np.ndarray):
            return LabelledPart(self.images[chosen], self.labels[chosen])
        paths = self.images.paths
        return LabelledPart(ImageFiles([paths[row] for row in chosen.tolist()]), self.labels[chosen])

    @property
    def paths(self) -> list[Path]:
        """The image files; none for pictures in memory."""
        return [] if isinstance(self.images, np.ndarray) else self.images.paths


@dataclass(frozen=True)
class LabelledSet:
    """A class-labelled data set.

    :param names: names of the classes in the order of their ids.
    :param parts: images by part: ``train``, ``valid``, ``test``, or ``all`` where the data set is not split.
    :param keys: what tells the classes where they are not told by names, in the order of their ids, such as synsets.
    """

    names: Sequence[str]
    parts: Mapping[str, LabelledPart]
    keys: Sequence[str] = field(default=())


def of_files(images: Iterable[Path], labels: Sequence[int]) -> LabelledPart:
    """A part of image files.

    :param images: paths of the N image files.
    :param labels: N class ids.
    """
    return LabelledPart(ImageFiles(list(images)), np.asarray(labels, dtype=np.int64))


def by_class_name(parts: Mapping[str, Sequence[tuple[Path, str]]], order: Sequence[str] | None = None) -> LabelledSet:
    """A data set of which lists say which class each image is of.

    :param parts: image files and what their classes are called, by part.
    :param order: what the classes are called, in the order of their ids; sorted by default.
    :raises InputError: for a class that is not in the order.
    """
    found = {label for rows in parts.values() for _, label in rows}
    classes = list(order) if order is not None else sorted(found)
    ids = {label: number for number, label in enumerate(classes)}
    if unknown := sorted(found - set(ids)):
        example = next(path for rows in parts.values() for path, label in rows if label == unknown[0])
        raise InputError(f"{example} is of the class {unknown[0]!r}, which the list of classes does not have")
    return LabelledSet(
        [spaced(label) for label in classes],
        {part: of_files((path for path, _ in rows), [ids[of] for _, of in rows]) for part, rows in parts.items()},
        classes,
    )


def spaced(label: str) -> str:
    """A class folder's name as a text: with blanks for underscores.

    >>> spaced("baby_back_ribs")
    'baby back ribs'
    """
    return label.replace("_", " ")
