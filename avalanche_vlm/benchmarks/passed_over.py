"""Image files that cannot be read when a run meets them: what takes their places, and which they were."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import TRANSIENT, WORKING, Declared, Stateful

TOLD = 100
"""The most files of which is said why they cannot be read: each is read again for it."""
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What the system lacks at a moment, of which no file is to blame."""


class FileImages(Protocol):
    """Images that are read from files: a sequence that knows their paths."""

    @property
    def paths(self) -> list[Path]:
        """The paths of the images."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def at(self, rows: Sequence[int]) -> Any:
        """Some of the images, in the order given.

        :param rows: places of the images.
        """
        ...


class StandIns:
    """Reads the images of a data set, and in the place of one that cannot be read the next one that can. Which one that
    is follows from the files alone, whoever reads them and in whatever order.

    :param images: images that are read from files.
    """

    def __init__(self, images: FileImages) -> None:
        self.images = images
        self.met = torch.zeros(len(images), dtype=torch.uint8)
        """1 where an image could not be read when it was met."""

    def read(self, index: int, classes: Sequence[int] | None = None) -> tuple[int, Any]:
        """An image, or the next one that can be read; behind the last one comes the first.

        :param index: place of the image.
        :param classes: the class of every image, of which none takes the place of one of another class; None where
            all may.
        :return: the place of the image that was read, and the image.
        :raises InputError: if none can be read that may take the place, or the system has no room to read any.
        """
        if self._readable(index) and (found := self._read(index)) is not None:
            return index, found
        for row in self._following(index, classes):
            if self._readable(row) and (found := self._read(row)) is not None:
                return row, found
        try:
            return index, self.images[index]
        except InputError as error:
            whose = "of its data set" if classes is None else "of its class"
            raise InputError(
                f"{error}; nor can any other image {whose} be read, to take its place (check=full with on_error=skip "
                "leaves them out before anything is trained)"
            ) from error

    def _following(self, index: int, classes: Sequence[int] | None) -> Iterator[int]:
        number = len(self.images)
        rows = ((index + step) % number for step in range(1, number))
        return rows if classes is None else (row for row in rows if classes[row] == classes[index])

    def _readable(self, row: int) -> bool:
        return not self.met[row]

    def _read(self, row: int) -> Any:
        try:
            return self.images[row]
        except InputError as error:
            if _lacks_room(error):
                raise
            self.met[row] = 1
            return None


class PassedOver(Stateful):
    """The images of a benchmark that could not be read when they were met.

    Processes that load data note what they meet in memory that this one shares, as long as they are started after the
    data sets are made. They read ahead: of an experience that ends within an epoch, after so many iterations, what they
    have read beyond its last minibatch counts as met.
    """

    states: ClassVar[dict[str, Declared]] = {"places": WORKING, "_met": TRANSIENT, "_parts": TRANSIENT}

    def __init__(self) -> None:
        self._parts: list[StandIns] = []
        self._met = torch.zeros(0, dtype=torch.uint8)

    def __bool__(self) -> bool:
        """Whether images of any data set may be passed over."""
        return bool(self._parts)

    def reader(self, images: FileImages) -> StandIns:
        """What reads the images of a further data set.

        :param images: images that are read from files.
        """
        self._parts.append(StandIns(images))
        # One piece of memory for all data sets: each would take an open file of its own.
        self._met = torch.cat([self._met, torch.zeros(len(images), dtype=torch.uint8)]).share_memory_()
        for part, met in zip(self._parts, self._met.split([len(of.images) for of in self._parts]), strict=True):
            part.met = met
        return self._parts[-1]

    @property
    def places(self) -> torch.Tensor:
        """Places of the images that were met, counted through all data sets ``[N]``; those that are set join them."""
        return self._met.nonzero().flatten()

    @places.setter
    def places(self, given: torch.Tensor) -> None:
        if len(given) and not 0 <= int(given.min()) <= int(given.max()) < len(self._met):
            raise InputError(f"an image was passed over that is none of the {len(self._met):,} there are")
        self._met[given] = 1  # what is met on the way back to where a run was interrupted was met then as well

    def forget(self) -> None:
        """Begin anew: nothing was met yet."""
        self._met.zero_()

    def as_json(self) -> dict[str, Any]:
        """The number of files, and why each of the first :data:`TOLD` cannot be read, in the order of the data sets."""
        found: dict[str, tuple[FileImages, int]] = {}
        for part in self._parts:
            rows = part.met.nonzero().flatten().tolist()
            for row, path in zip(rows, part.images.at(rows).paths, strict=True):
                found.setdefault(str(path), (part.images, row))
        return {"count": len(found), "files": [_why(path, *found[path]) for path in list(found)[:TOLD]]}


def _why(path: str, images: FileImages, row: int) -> str:
    try:
        images[row]
    except InputError as error:
        return str(error)
    return f"{path} could not be read when it was met, and can be read now"


def _lacks_room(error: BaseException | None) -> bool:
    """Whether the system and not a file is to blame: at another moment the same file may well be read."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SCARCE):
            return True
        error = error.__cause__
    return False
