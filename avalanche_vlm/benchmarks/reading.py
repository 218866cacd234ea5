"""Reading a data set from beginning to end, apart from training."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.utils.data import DataLoader

from avalanche_vlm._ranks import sharing
from avalanche_vlm.benchmarks.shares import placed_batches

_WORKERS: ContextVar[int] = ContextVar("_WORKERS", default=0)
_PINNED: ContextVar[bool] = ContextVar("_PINNED", default=False)


@contextmanager
def reading_by(workers: int, pinned: bool = False) -> Iterator[None]:
    """Have :func:`ordered_batches` read by so many processes, for as long as the context lasts.

    :param workers: number of processes, 0 for this one.
    :param pinned: whether minibatches lie in pinned memory, from where a CUDA device takes them without being waited
        for.
    """
    tokens = _WORKERS.set(workers), _PINNED.set(pinned)
    try:
        yield
    finally:
        _WORKERS.reset(tokens[0])
        _PINNED.reset(tokens[1])


def ordered_batches(dataset: Any, batch_size: int) -> DataLoader:
    """Minibatches of a data set in its order, which leave the global random generator alone. They are the same whoever
    reads them: this process, those that :func:`reading_by` says where there is more than one minibatch, or all that
    train together (:mod:`~avalanche_vlm.benchmarks.shares`).

    Every loader draws a seed for its processes, one that does not shuffle as well. torch's default takes it from the
    global generator, so that whoever reads data in between would change the order of what is trained next.

    :param dataset: samples by number, with a length.
    :param batch_size: samples per minibatch, at least 1; the last one may be smaller.

    >>> state = torch.get_rng_state()
    >>> [batch.tolist() for batch in ordered_batches([1, 2, 3], 2)]
    [[1, 2], [3]]
    >>> torch.equal(state, torch.get_rng_state())
    True
    """
    # A worker of somebody's may have no processes of its own, and to start some for one minibatch brings nothing.
    alone = multiprocessing.current_process().daemon or len(dataset) <= batch_size
    workers = 0 if alone else _WORKERS.get()
    return _Ordered(dataset, batch_size, num_workers=workers, pin_memory=_PINNED.get(), generator=torch.Generator())


class _Ordered(DataLoader):
    """A loader of which several processes that train together read a share each."""

    def __iter__(self) -> Any:
        if sharing() is None:
            return super().__iter__()
        plain: DataLoader = DataLoader(
            self.dataset,
            self.batch_size,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            generator=self.generator,
        )
        return placed_batches(plain, None)
