"""Randomness with little state: draws that follow from a seed and a number, and walks through a set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import WORKING, Stateful


class Draws(Stateful):
    """A generator of its own for every draw, made of a seed and the number of the draw.

    torch's generators hold 5 kB of state: more than many exemplars, in a memory whose bytes are counted.

    :param seed: seed of all draws, 0 or more.
    :param count: draws taken so far, 0 or more.
    :raises InputError: if one of them is no such number.

    >>> first, again = Draws(3), Draws(3)
    >>> torch.equal(torch.rand(4, generator=first.next()), torch.rand(4, generator=again.next()))
    True
    >>> first.count
    1
    """

    __slots__ = ("count", "seed")

    states: ClassVar = {"seed": WORKING, "count": WORKING}

    def __init__(self, seed: int, count: int = 0) -> None:
        self.seed, self.count = seed, count
        self._check()

    def _check(self) -> None:
        whole(self.seed, 0, "a seed")
        whole(self.count, 0, "the number of draws")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._check()

    def next(self) -> torch.Generator:
        """The generator of the next draw, on the CPU."""
        (state,) = np.random.SeedSequence([self.seed, self.count]).generate_state(1, np.uint64)
        self.count += 1
        return torch.Generator().manual_seed(int(state))


class Passes(Stateful):
    """Batches of an endless walk through shuffled passes over a set; a pass leaves out what does not fill a batch.

    :param n: items of the set, at least 1.
    :param batch_size: items per batch, at least 1; more than ``n`` counts as ``n``.
    :param seed: seed of the orders.
    :raises InputError: if there is nothing to walk through, or a batch of nothing.

    >>> passes = Passes(6, 2, seed=0)
    >>> sorted(torch.cat([passes.next() for _ in range(3)]).tolist())
    [0, 1, 2, 3, 4, 5]
    """

    states: ClassVar = {"_generator": WORKING, "_order": WORKING, "_position": WORKING}

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n = whole(n, 1, "the number of items to walk through")
        self.batch_size = min(whole(batch_size, 1, "the batch size"), n)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.zeros(0, dtype=torch.long)
        self._position = 0

    def next(self) -> torch.Tensor:
        """The indices of the next batch, int64."""
        if len(self._order) - self._position < self.batch_size:
            self._order, self._position = torch.randperm(self.n, generator=self._generator), 0
        taken = self._order[self._position : self._position + self.batch_size]
        self._position += self.batch_size
        return taken

    @property
    def nbytes(self) -> int:
        """Bytes of the walk's state: the generator's, and the order of the present pass."""
        return self._generator.get_state().nbytes + self._order.nbytes

    def stored(self) -> StoredBytes:
        """:attr:`nbytes`, all in memory."""
        return StoredBytes(ram=self.nbytes)
