"""Paths of many files in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np

_TOGETHER = 1024
"""Paths that are made together when all are asked for."""
_SHARED = 16
"""What is taken holds names of its own where all of them are more than this many times as many."""


class PathTexts(Sequence[str]):
    """Paths as texts, each of which is made when it is asked for. A text of its own takes some 120 bytes, and there may
    be millions: what is held are the folders, each once, and the names' bytes, one behind the other. What is taken of
    them shares both, unless it is a small part, which would keep all of them in memory. What goes to another process or
    a file has its own.

    :param folders: what the paths begin with.
    :param folder_of: which of them each path begins with ``[N]``.
    :param names: how the paths go on, as UTF-8, one behind the other.
    :param bounds: where the name of each begins in these, and in the end where the last one ends ``[N + 1]``.
    :param rows: places in ``folder_of`` and ``bounds`` of the paths that this sequence has; None for all of them.
    """

    def __init__(
        self,
        folders: Sequence[str],
        folder_of: np.ndarray,
        names: bytes,
        bounds: np.ndarray,
        rows: np.ndarray | None = None,
    ) -> None:
        self._folders, self._folder_of, self._names, self._bounds, self._rows = folders, folder_of, names, bounds, rows

    @classmethod
    def beneath(cls, found: Iterable[tuple[str, Sequence[str]]]) -> PathTexts:
        """The paths of files in folders, folder by folder.

        :param found: what the paths of some files begin with, such as their folder with the separator behind it, and
            how each of them goes on.
        """
        folders, counts, held, lengths = list[str](), list[int](), list[bytes](), list[np.ndarray]()
        for folder, names in found:
            together = "".join(names)
            folders.append(folder)
            counts.append(len(names))
            held.append(together.encode(errors="surrogatepass"))
            plain = together.isascii()
            sizes = map(len, names) if plain else (len(name.encode(errors="surrogatepass")) for name in names)
            lengths.append(np.fromiter(sizes, np.uint32, len(names)))
        bounds = np.zeros(sum(counts) + 1, np.int64)
        np.cumsum(np.concatenate(lengths) if lengths else (), out=bounds[1:])
        small = np.min_scalar_type(max(int(bounds[-1]), 1))
        which = np.arange(len(folders), dtype=np.min_scalar_type(max(len(folders), 1)))
        return cls(folders, np.repeat(which, counts), b"".join(held), bounds.astype(small))

    @classmethod
    def of(cls, texts: Iterable[str]) -> PathTexts:
        """Paths of any files, one after another.

        :param texts: the paths, of which some hundred are held at a time.
        """
        left = iter(texts)
        return cls.beneath(("", some) for some in iter(lambda: list(islice(left, _TOGETHER)), []))

    def __len__(self) -> int:
        return len(self._folder_of) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> PathTexts: ...

    def __getitem__(self, index: int | slice) -> str | PathTexts:
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} paths, and none at {index}")
        return next(self._made(np.array([index % len(self)])))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _TOGETHER):
            yield from self._made(np.arange(start, min(start + _TOGETHER, len(self))))

    def at(self, rows: Sequence[int] | np.ndarray) -> PathTexts:
        """Some of the paths, in the order given.

        :param rows: places of the paths.
        """
        chosen = np.asarray(rows, np.int64)
        chosen = np.where(chosen < 0, chosen + len(self), chosen)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise IndexError(f"there are {len(self)} paths, and none at some of the places")
        own = chosen if self._rows is None else self._rows[chosen]
        rows = own.astype(np.min_scalar_type(max(len(self._folder_of), 1)))
        found = PathTexts(self._folders, self._folder_of, self._names, self._bounds, rows)
        return found._by_itself() if len(rows) * _SHARED < len(self._folder_of) else found

    def __reduce__(self) -> tuple[type[PathTexts], tuple[Any, ...]]:
        own = self._by_itself()
        return PathTexts, (own._folders, own._folder_of, own._names, own._bounds, own._rows)

    def _by_itself(self) -> PathTexts:
        """The same paths, with the folders and the names of no others."""
        if self._rows is None:
            return self
        used, places = np.unique(self._rows.astype(np.int64), return_inverse=True)
        folders, folder_of = np.unique(self._folder_of[used], return_inverse=True)
        starts, stops = self._bounds[used].astype(np.int64), self._bounds[used + 1].astype(np.int64)
        names = b"".join(self._names[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True))
        bounds = np.zeros(len(used) + 1, np.int64)
        np.cumsum(stops - starts, out=bounds[1:])
        return PathTexts(
            [self._folders[folder] for folder in folders.tolist()],
            folder_of.astype(np.min_scalar_type(max(len(folders), 1))),
            names,
            bounds.astype(np.min_scalar_type(max(len(names), 1))),
            None if np.array_equal(places, np.arange(len(used))) else places.astype(np.min_scalar_type(len(used))),
        )

    def _made(self, places: np.ndarray) -> Iterator[str]:
        rows = places if self._rows is None else self._rows[places].astype(np.int64)
        of = self._folder_of[rows].tolist(), self._bounds[rows].tolist(), self._bounds[rows + 1].tolist()
        for folder, start, stop in zip(*of, strict=True):
            yield self._folders[folder] + self._names[start:stop].decode(errors="surrogatepass")
