"""What the lists of a class-labelled data set come to: its images, their classes and its parts. No image is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

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
        return LabelledPart(self.images.at(chosen), self.labels[chosen])

    @property
    def paths(self) -> list[Path]:
        """The image files; none for pictures in memory."""
        return [] if isinstance(self.images, np.ndarray) else self.images.paths

    @property
    def path_texts(self) -> Sequence[str]:
        """The paths of the image files as texts."""
        return [] if isinstance(self.images, np.ndarray) else self.images.path_texts


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

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            where = f"the part {name!r}"
            if isinstance(part.images, np.ndarray) and (
                part.images.dtype != np.uint8
                or part.images.ndim not in (3, 4)
                or part.images.shape[3:] not in ((), (3,))
                or 0 in part.images.shape[1:3]
            ):
                shape = " x ".join(map(str, part.images.shape))
                raise InputError(f"{where} has no 8-bit pictures, but an array of {shape} {part.images.dtype}")
            if part.labels.ndim != 1 or len(part.labels) != len(part.images):
                raise InputError(f"{where} has {len(part.images)} images, and not a label for each")
            refuse_labels(part.labels.tolist(), len(self.names), where)


def raw_images(part: LabelledPart) -> ImageFiles | torch.Tensor:
    """The images of a part as a transform takes them: files, or pictures ``[N, C, H, W]`` of 1 or 3 channels.

    :param part: images with class ids.
    """
    if not isinstance(part.images, np.ndarray):
        return part.images
    pictures = torch.from_numpy(part.images)
    return pictures[:, None] if pictures.ndim == 3 else pictures.permute(0, 3, 1, 2)


def of_files(images: Iterable[Path | str], labels: Sequence[int]) -> LabelledPart:
    """A part of image files.

    :param images: paths of the N image files.
    :param labels: N class ids.
    """
    return LabelledPart(ImageFiles(list(images)), np.asarray(labels, dtype=np.int64))


def joined(first: LabelledPart, second: LabelledPart) -> LabelledPart:
    """Two parts as one, the first one's images first; both are files, or both pictures of one size.

    :param first: images with class ids.
    :param second: further images with ids of the same classes.
    """
    labels = np.concatenate([first.labels, second.labels])
    if isinstance(first.images, np.ndarray) and isinstance(second.images, np.ndarray):
        return LabelledPart(np.concatenate([first.images, second.images]), labels)
    return LabelledPart(ImageFiles([*first.path_texts, *second.path_texts]), labels)


def by_class_name(
    parts: Mapping[str, Sequence[tuple[Path | str, str]]], order: Sequence[str] | None = None
) -> LabelledSet:
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


def refuse_labels(labels: Sequence[int], classes: int, where: Path | str) -> None:
    """Refuse class ids that are those of no class: a negative one would silently be a class from the end.

    :param labels: class ids, whole numbers of any size.
    :param classes: number of the classes.
    :param where: what has the labels, at the beginning of a sentence.
    :raises InputError: in one sentence that names the first such label and its place.
    """
    if not labels or (min(labels) >= 0 and max(labels) < classes):
        return
    row = next(row for row, label in enumerate(labels) if not 0 <= label < classes)
    raise InputError(f"{where}: image {row} has the class id {_short(labels[row])}, and there are {classes} classes")


def whole_number(text: str) -> int | None:
    """The whole number from 0 that a text is; None for any other text, and for more digits than a label ever has.

    >>> whole_number("12"), whole_number("-1"), whole_number("9" * 5000)
    (12, None, None)
    """
    return int(text) if text.isdecimal() and len(text) <= 18 else None


def names_by_label(named: Mapping[int, str], images: int, where: Path | str) -> list[str]:
    """The names of all classes up to the largest label that occurs, ``class N`` for one that does not occur.

    :param named: names by label.
    :param images: number of images that have one of the labels.
    :param where: what has the labels, at the beginning of a sentence.
    :raises InputError: in one sentence, for a label that is not below the number of images.
    """
    last = max(named, default=-1)
    refuse_label_beyond(last, images, where)
    return [named.get(number, f"class {number}") for number in range(last + 1)]


def refuse_label_beyond(label: int, images: int, where: Path | str) -> None:
    """Refuse a label that cannot be a class's place, before anything is made for every class up to it.

    :param label: the largest label, counted from 0.
    :param images: number of images: there are no more classes than these.
    :param where: what has the labels, at the beginning of a sentence.
    :raises InputError: in one sentence, for a label that is not below the number of images.
    """
    if label >= images:
        raise InputError(f"{where} has the label {_short(label)}, and {images} images cannot be of so many classes")


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**20 else "of more than 20 digits"


def spaced(label: str) -> str:
    """A class folder's name as a text: with blanks for underscores.

    >>> spaced("baby_back_ribs")
    'baby back ribs'
    """
    return label.replace("_", " ")
