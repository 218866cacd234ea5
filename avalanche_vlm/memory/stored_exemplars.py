"""Exemplars that are there: their rows, their pictures, their budget, and how all that goes out and in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import Self

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.base import Columns, Memory
from avalanche_vlm.memory.draws import Draws
from avalanche_vlm.memory.exemplar_rows import Budget, Policy, row_type, same_row_type, text_length
from avalanche_vlm.memory.packing import StateDict, pack
from avalanche_vlm.memory.pixels import Codec, Payload, PixelStore, check_codec, decode, make_store
from avalanche_vlm.memory.state import RAW, WORKING, Declared


class StoredExemplars(Memory):
    """Base of memories that keep pictures with their labels.

    :param budget: how much may be kept.
    :param policy: which exemplars stay.
    :param seed: seed of the draws, 0 or more.
    :param codec: how pictures are kept.
    :param quality: quality of JPEG, 1 to 100.
    :param folder: folder to keep the pictures in; None for RAM.
    :raises InputError: for a bad setting.
    """

    states: ClassVar = {
        "max_bytes": WORKING,
        "max_samples": WORKING,
        "_draws": WORKING,
        "_shape": WORKING,
        "_rows": RAW,
        "_store": Declared(kept=True, saved=False),  # its pictures are in the state as they are stored
    }

    def __init__(
        self, budget: Budget, policy: Policy, seed: int, codec: Codec, quality: int, folder: str | Path | None
    ) -> None:
        check_codec(codec, quality)
        self.policy: Policy = policy
        self.codec: Codec = codec
        self.quality = quality
        self.folder = None if folder is None else Path(folder)
        self._limit(budget)
        self._draws = Draws(seed)
        self._rows: np.ndarray | None = None
        self._shape: tuple[int, ...] = ()
        self._store: PixelStore | None = None

    def __len__(self) -> int:
        return 0 if self._rows is None else len(self._rows)

    @property
    def labels(self) -> torch.Tensor:
        """Class ids (or identities of pairs) of what is kept ``[n]``."""
        return self._column("y")

    @property
    def steps(self) -> torch.Tensor:
        """The experience that each kept sample comes from ``[n]``."""
        return self._column("step")

    @property
    def seed(self) -> int:
        """Seed of the draws."""
        return self._draws.seed

    @property
    def task_labels(self) -> torch.Tensor:
        """The task label of each kept sample ``[n]``."""
        return self._column("task")

    def read(self, rows: Sequence[int]) -> Columns:
        """Some of what is kept; no draw is taken.

        :param rows: which, by their places, each from 0 to the number kept less one.
        :return: ``pixels`` uint8 ``[n, 3, H, W]``, ``y`` and ``task`` int64 ``[n]``, ``tokens`` int64 ``[n, L]`` for
            pairs.
        :raises InputError: if the memory is empty, or a stored picture is damaged or gone.
        """
        return self._read(np.asarray(rows, dtype=np.int64))

    def chunks(self, size: int = 256) -> Iterator[Columns]:
        """Everything that is kept, part by part: no draw is taken, and no more than a part is decoded at a time.

        :param size: samples of a part, at least 1.
        """
        for start in range(0, len(self), size):
            yield self._read(np.arange(start, min(start + size, len(self))))

    def check_room(self, shape: tuple[int, ...]) -> None:
        """See before anything is trained whether raw pictures of this shape can be kept.

        :param shape: shape of one picture, ``(3, H, W)``.
        :raises InputError: if the budget does not hold a single one; encoded, it is seen when they come.
        """
        if self.codec == "uint8" and self.max_bytes is not None:
            self._budget.check(int(np.prod(shape)) + row_type().itemsize)

    @property
    def capacity(self) -> int | None:
        """The largest number of samples that the budget can hold; None where it depends on how they are encoded."""
        if self.max_samples is not None or self._rows is None or self.codec != "uint8":
            return self.max_samples
        return self._budget.capacity(int(np.prod(self._shape)) + self._rows.itemsize)

    def resize(self, max_bytes: int | None = None, *, max_samples: int | None = None) -> None:
        """Set a new budget; what no longer fits is given up at once.

        :param max_bytes: bound on the bytes of all that is kept; None with ``max_samples``.
        :param max_samples: bound on the number of exemplars; None with ``max_bytes``.
        :raises InputError: if the new budget does not hold a single exemplar; the memory is then as before.
        """
        before, new = self._budget, Budget(max_bytes, max_samples)
        self._limit(new)
        if self._rows is None or self._store is None:
            return
        try:
            rows = self._rows[new.chosen(self._rows, self.policy, self.codec)]
            payload = _apart(self._store.packed(rows["slot"]), rows)
        except InputError:
            self._limit(before)
            raise
        self._clear()
        self._restore(rows, payload)

    def state_dict(self) -> StateDict:
        """Everything that is kept, pictures as they are stored; those on disk stay there, in a copy that lives as long
        as the state."""
        state = super().state_dict()
        if self._rows is not None and self._store is not None:
            state["pictures"] = self._store.packed(self._rows["slot"])
            rows = self._rows.copy()
            rows["slot"] = np.arange(len(rows))  # where a picture lies says nothing elsewhere
            state |= pack("_rows", rows)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep exactly what a state says, where this memory keeps its pictures.

        :param state: what :meth:`state_dict` of a memory with the same policy and codec gave, in RAM or on disk.
        :raises InputError: if it is damaged or does not fit.
        """
        self._clear()
        super().load_state_dict({name: entry for name, entry in state.items() if name != "pictures"})
        if self._rows is None:
            return
        try:
            rows, pictures = self._rows.view(same_row_type(self._rows)), state["pictures"]
            if len(rows) == 0 or rows["size"].sum(dtype=np.int64) != len(pictures):
                raise ValueError("the pictures have another length than their sizes say")
            if self.codec == "uint8" and (rows["size"] != np.prod(self._shape)).any():
                raise ValueError(f"there are pictures of another shape than {list(self._shape)}")
            self._restore(rows, _apart(pictures, rows))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"the state given to {type(self).__name__} is damaged: {error}") from error

    @classmethod
    def load(cls, folder: str | Path, keep_in: str | Path | None = None) -> Self:
        """Read what ``save`` wrote; the same draws follow. Nothing in the files is executed.

        :param folder: where it was written.
        :param keep_in: folder to keep the pictures in from now on; None for RAM.
        :raises InputError: if the files are missing, truncated, changed or inconsistent.
        """
        return cls._loaded(folder, folder=keep_in)

    @property
    def _budget(self) -> Budget:
        return Budget(self.max_bytes, self.max_samples)

    def _limit(self, budget: Budget) -> None:
        self.max_bytes, self.max_samples = budget.max_bytes, budget.max_samples

    def _read(self, chosen: np.ndarray) -> Columns:
        if self._rows is None or self._store is None:
            raise InputError("the exemplar memory is empty: there is nothing to read")
        rows = self._rows[chosen]
        names = ("y", "task", "tokens") if text_length(rows) else ("y", "task")
        batch = {name: torch.from_numpy(rows[name].astype(np.int64)) for name in names}
        return {"pixels": decode(self._store.read(rows["slot"]), self.codec, self._shape), **batch}

    def _column(self, name: str) -> torch.Tensor:
        values = np.zeros(0, dtype=np.int64) if self._rows is None else self._rows[name].astype(np.int64)
        return torch.from_numpy(values)

    def _restore(self, rows: np.ndarray, payload: Payload) -> None:
        """Keep exactly these: a policy that chose among more might choose again among fewer."""
        if not self._budget.holds(rows, self.codec):
            raise ValueError("it holds more than its budget")
        store, rows = self._opened(rows.dtype), rows.copy()
        rows["slot"] = store.replace(np.zeros(0, dtype=np.int64), payload)[1]
        self._rows = rows

    def _opened(self, dtype: np.dtype) -> PixelStore:
        if self._store is None:
            size = int(np.prod(self._shape))
            self._store = make_store(self.codec, self._budget.capacity(size + dtype.itemsize), size, self.folder)
        return self._store

    def _clear(self) -> None:
        if self._store is not None:
            self._store.replace(np.zeros(0, dtype=np.int64), [])
        self._rows = self._store = None


def _apart(pictures: torch.Tensor, rows: np.ndarray) -> Payload:
    """Views of the pictures that lie end to end, one for each row."""
    return np.split(pictures.cpu().numpy(), np.cumsum(rows["size"], dtype=np.int64)[:-1])
