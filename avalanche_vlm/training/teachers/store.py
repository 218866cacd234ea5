"""Features that are computed once: in memory, and past a limit on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.spooled import PIECE
from avalanche_vlm.memory.state import KEPT, TRANSIENT, WORKING, Stateful
from avalanche_vlm.training.reference.base import Numbers


class FeatureStore(Stateful):
    """Rows of features by number, each computed when it is first asked for.

    The first rows that come are kept in memory, on the device that they came on; what is over the limit goes to a file.

    :param max_bytes: limit of the features in memory.
    :param folder: where the file is made, if one is needed; the system's temporary folder by default.

    >>> store = FeatureStore()
    >>> asked = []
    >>> def compute(missing):
    ...     asked.append(missing.tolist())
    ...     return missing[:, None].float()
    >>> store.rows(torch.tensor([0, 1]), compute).tolist(), store.rows(torch.tensor([0, 3, 1]), compute).tolist()
    ([[0.0], [1.0]], [[0.0], [1.0], [1.0]])
    >>> asked
    [[0, 1], [1]]
    """

    states: ClassVar = {
        "_width": WORKING,
        "_in_ram": WORKING,
        "_filled": WORKING,
        "_places": KEPT,
        "_ram": KEPT,
        "_far": KEPT,
        "_file": TRANSIENT,  # holds what _far reads and writes
    }

    def __init__(self, max_bytes: int = 1 << 30, folder: str | Path | None = None) -> None:
        if max_bytes < 0:
            raise InputError(f"the limit of stored features is 0 bytes or more, not {max_bytes}")
        self.max_bytes, self.folder = max_bytes, folder
        self.clear()

    def __len__(self) -> int:
        return self._filled

    def clear(self) -> None:
        """Forget everything."""
        self._places = torch.zeros(0, dtype=torch.long)
        self._ram: torch.Tensor | None = None
        self._file: IO[bytes] | None = None
        self._filled = self._in_ram = self._width = 0

    def append(self, features: torch.Tensor) -> None:
        """The next rows ``[n, D]``, numbered on from those that are there."""
        self._add(torch.arange(self._filled, self._filled + len(features)), features)

    def trim(self) -> None:
        """Give back memory that was taken ahead of features to come."""
        if self._ram is not None and self._in_ram < len(self._ram):
            self._ram = self._ram[: self._in_ram].clone()

    def to(self, device: torch.device) -> FeatureStore:
        """Move what is in memory."""
        self._ram = None if self._ram is None else self._ram.to(device)
        return self

    def rows(self, rows: Numbers, compute: Callable[[Numbers], torch.Tensor] | None = None) -> torch.Tensor:
        """Features ``[n, D]`` of these rows.

        :param rows: numbers, each once; or ``slice(start, None)`` for all from there on, in the order in which they
            came, or if there are none, all that there are.
        :param compute: takes the positions ``[m]`` in ``rows`` of what is not there, or the slice; gives its features
            ``[m, D]``. Not needed where everything is there.
        """
        if isinstance(rows, slice):
            if self._filled <= (rows.start or 0):
                assert compute is not None, "rows that are not there have to be computed"
                self.append(compute(rows))
            if self._on_disk or self._ram is None:
                return self._read(torch.arange(self._filled)[rows])
            return self._ram[: self._filled][rows]
        rows = on_host(rows)
        missing = self._missing(rows)
        if len(missing):
            assert compute is not None, "rows that are not there have to be computed"
            self._add(rows[missing], compute(missing))
        return self._read(self._places[rows])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; what was in a file is in one again, and is never in memory as a whole.

        :param state: what ``state_dict`` of a store gave.
        :raises InputError: if it does not fit together.
        """
        far = state.get("_far")
        super().load_state_dict({**state, "_far": None} if "_far" in state else state)
        shape = None if far is None else getattr(far, "shape", ())
        if shape != ((self._on_disk, self._width) if self._on_disk else None):
            raise InputError("the state given to FeatureStore has other features for its file than it says")
        self._far = far

    def stored(self) -> StoredBytes:
        """Bytes of what is kept. Said here, since the declaration does not tell memory from disk."""
        ram = 0 if self._ram is None else self._ram.nbytes
        return StoredBytes(ram=ram + self._places.nbytes, disk=self._on_disk * self._width * 4)

    @property
    def _far(self) -> torch.Tensor | None:
        """The features in the file ``[n, D]``, read where they are looked at: rows that are there do not change."""
        return torch.from_numpy(self._mapped()) if self._on_disk and self._file is not None else None

    @_far.setter
    def _far(self, features: torch.Tensor | None) -> None:
        self._file = None
        if features is not None:
            self._write(features, 0)

    def _mapped(self) -> np.ndarray:
        assert self._file is not None
        return np.memmap(self._file.name, np.float32, "c", shape=(self._on_disk, self._width))

    @property
    def _on_disk(self) -> int:
        return self._filled - self._in_ram

    def _missing(self, rows: torch.Tensor) -> torch.Tensor:
        if len(rows) and int(rows.max()) >= len(self._places):
            more = torch.full((int(rows.max()) + 1 - len(self._places),), -1)
            self._places = torch.cat([self._places, more])
        return (self._places[rows] < 0).nonzero().squeeze(1)

    def _add(self, rows: torch.Tensor, features: torch.Tensor) -> None:
        features = features.detach().float()
        self._missing(rows)
        self._width = features.shape[1]
        fits = max(0, self.max_bytes // (4 * self._width) - self._in_ram)
        here, there = features[:fits], features[fits:]
        if len(there):
            # What may fail comes first: a store whose disk was full is what it was before.
            self._write(there, self._on_disk)
        if len(here):
            ram = self._grow(len(here), here)
            ram[self._in_ram : self._in_ram + len(here)] = here
            self._in_ram += len(here)
        self._places[rows] = torch.arange(self._filled, self._filled + len(rows))
        self._filled += len(rows)

    def _grow(self, n: int, like: torch.Tensor) -> torch.Tensor:
        """Make room in memory for n more rows."""
        capacity = 0 if self._ram is None else len(self._ram)
        if self._ram is not None and self._in_ram + n <= capacity:
            return self._ram
        larger = like.new_empty(
            min(max(self._in_ram + n, 2 * capacity), self.max_bytes // (4 * self._width)), self._width
        )
        if self._ram is not None:
            larger[: self._in_ram] = self._ram[: self._in_ram]
        self._ram = larger
        return larger

    def _write(self, features: torch.Tensor, row: int) -> None:
        try:
            if self._file is None:
                # Lives as long as the store.
                self._file = tempfile.NamedTemporaryFile(prefix="features-", dir=self.folder)  # noqa: SIM115
            self._file.seek(row * self._width * 4)
            for part in features.split(max(1, PIECE // (4 * self._width))):
                self._file.write(np.ascontiguousarray(part.cpu().numpy()).data)
            self._file.flush()
        except OSError as error:
            where = self.folder or tempfile.gettempdir()
            raise InputError(f"a teacher's features cannot be written to {where}: {error.strerror}") from error

    def _read(self, places: torch.Tensor) -> torch.Tensor:
        if not self._on_disk:
            assert self._ram is not None
            return self._ram[to_device(places, self._ram.device)]
        on_disk = self._mapped()
        far = places >= self._in_ram
        found = torch.empty(len(places), self._width)
        found[far] = torch.from_numpy(on_disk[(places[far] - self._in_ram).numpy()])
        if self._ram is None:
            return found
        found[~far] = self._ram[places[~far].to(self._ram.device)].cpu()
        return found.to(self._ram.device)
