"""Samples of a user's data before they are a stream: column by column, since there may be millions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar, overload

import numpy as np

from avalanche_vlm.benchmarks.sources.path_texts import PathTexts

PARTS = ("", "train", "valid", "test")
"""The splits by the numbers that they have in a column; the first one is ours to make."""


class Item(NamedTuple):
    """One sample.

    :param image: path of the image file.
    :param text: what the class is told by (its name, where nothing else names it), or the caption.
    :param task: name of the item's task.
    :param split: ``"train"``, ``"valid"``, ``"test"`` or ``""`` where the split is ours to make.
    :param line: its row in a table; 0 where there is none.
    """

    image: str
    text: str
    task: str
    split: str
    line: int = 0


Values = TypeVar("Values", bound=Sequence[str], covariant=True)


@dataclass(frozen=True)
class Coded(Generic[Values]):
    """A text of each sample, of which there may be fewer than samples.

    :param values: the texts, each once, some of which may be no sample's.
    :param codes: the place of each sample's among them ``[N]``.
    """

    values: Values
    codes: np.ndarray

    def at(self, rows: np.ndarray) -> Coded[Values]:
        """The texts of some samples.

        :param rows: places of the samples, or a mask.
        """
        return Coded(self.values, self.codes[rows])

    def used(self) -> np.ndarray:
        """The codes that occur, in the order in which they come first."""
        return numbers_once(self.codes)

    def recoded(self, text_of: Callable[[str], str]) -> Coded[list[str]]:
        """Other texts in the place of these, equal ones in the place of equal ones.

        :param text_of: the text that comes in the place of another.
        """
        places: dict[str, int] = {}
        used = self.used()
        table = np.zeros(len(self.values), np.int64)
        for code in used.tolist():
            table[code] = places.setdefault(text_of(self.values[code]), len(places))
        return Coded(list(places), _small(table, len(places))[self.codes])


@dataclass(eq=False)
class Items(Sequence[Item]):
    """Samples in columns; an :class:`Item` is made when it is asked for.

    :param image: paths of the image files.
    :param text: what the classes are told by, or captions.
    :param task: names of the tasks.
    :param split: numbers of the splits ``[N]``, places in :data:`PARTS`.
    :param table: the table whose rows the samples are; empty for none.
    :param lines: their rows there ``[N]``; None for none.
    """

    image: Coded[PathTexts]
    text: Coded[list[str]]
    task: Coded[list[str]]
    split: np.ndarray
    table: str = ""
    lines: np.ndarray | None = None

    @classmethod
    def of(cls, items: Iterable[Item], table: str = "") -> Items:
        """Samples one after another.

        :param items: the samples, of which no more than one is held.
        :param table: the table whose rows they are; empty for none.
        """
        values: tuple[dict[str, int], ...] = {}, {}, {}
        codes: tuple[list[int], ...] = [], [], []
        splits, lines = bytearray(), list[int]()
        for item in items:
            texts = item.image, item.text, item.task
            for known, column, value in zip(values, codes, texts, strict=True):
                column.append(known.setdefault(value, len(known)))
            splits.append(PARTS.index(item.split))
            lines.append(item.line)
        image, text, task = (
            Coded(list(known), _small(np.array(column, np.int64), len(known)))
            for known, column in zip(values, codes, strict=True)
        )
        paths = PathTexts.of(image.values)
        split = np.frombuffer(bytes(splits), np.uint8)
        return cls(Coded(paths, image.codes), text, task, split, table, np.array(lines, np.int64) if table else None)

    def __len__(self) -> int:
        return len(self.split)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Items: ...

    def __getitem__(self, index: int | slice) -> Item | Items:
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        image, text, task = (column.values[int(column.codes[index])] for column in (self.image, self.text, self.task))
        return Item(image, text, task, PARTS[self.split[index]], 0 if self.lines is None else int(self.lines[index]))

    def __iter__(self) -> Iterator[Item]:
        return map(self.__getitem__, range(len(self)))

    def at(self, rows: np.ndarray) -> Items:
        """Some of the samples, in the order given.

        :param rows: places of the samples, or a mask.
        """
        lines = None if self.lines is None else self.lines[rows]
        return Items(self.image.at(rows), self.text.at(rows), self.task.at(rows), self.split[rows], self.table, lines)

    def where(self, row: int) -> str:
        """What a sentence on a sample begins with: its row, a colon and a blank; empty where there is no table.

        :param row: place of the sample.
        """
        return "" if self.lines is None else f"{self.table}, row {self.lines[row]}: "

    def of_task(self, task: str, split: str | None = None) -> np.ndarray:
        """The places of the samples of a task.

        :param task: name of the task.
        :param split: the split that they are of; None for any.
        """
        mine = self.task.codes == (self.task.values.index(task) if task in self.task.values else -1)
        if split is not None:
            mine &= self.split == PARTS.index(split)
        return np.flatnonzero(mine)

    def texts(self) -> set[str]:
        """The texts that occur."""
        return {self.text.values[code] for code in np.unique(self.text.codes).tolist()}

    def tasks(self) -> list[str]:
        """The tasks that occur, in the order in which they come first."""
        return [self.task.values[code] for code in self.task.used().tolist()]


def numbers_once(values: np.ndarray) -> np.ndarray:
    """The values that occur, in the order in which they come first.

    :param values: whole numbers, as often as they occur ``[N]``.

    >>> numbers_once(np.array([3, 1, 3, 2])).tolist()
    [3, 1, 2]
    """
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]


def places_by_number(keys: np.ndarray) -> Mapping[int, np.ndarray]:
    """The places of equal numbers, in the order in which the numbers come first.

    :param keys: whole numbers that tell the groups ``[N]``.

    >>> {key: places.tolist() for key, places in places_by_number(np.array([7, 2, 7])).items()}
    {7: [0, 2], 2: [1]}
    """
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] - 1))
    groups = np.split(order, begins[1:]) if len(order) else []
    return {int(keys[of[0]]): of for of in sorted(groups, key=lambda of: int(of[0]))}


def _small(codes: np.ndarray, number: int) -> np.ndarray:
    """Codes of so many values in as few bytes as they can have."""
    return codes.astype(np.min_scalar_type(max(number, 1)))
