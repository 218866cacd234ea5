"""Samples that draw by their place in an epoch, and batches of which each of several processes reads its share.

What a transform draws follows from the epoch and the sample's place in it, whoever reads the sample: this process, one
of several that load data, or another one of those that train together. So all have the batch that one process reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.benchmarks.utils.data_loader import MultiDatasetDataLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from avalanche_vlm._generators import generators_at, generators_kept, seed_generators
from avalanche_vlm._ranks import Ranks, sharing
from avalanche_vlm.benchmarks.joining import ReadShare, whole_batches
from avalanche_vlm.compat.data_sets import source_datasets
from avalanche_vlm.compat.strategies import loader_of_epoch
from avalanche_vlm.errors import InputError


def drawn_base(loader: Any) -> int:
    """What the draws of an epoch follow from: a number that the generator of a loader would give next, torch's global
    one where it has none of its own. It stays where it is, so an epoch that is gone on with has the same one where it
    began.

    :param loader: the loader of the epoch; that of a kind which is read as it is counts as one without.
    """
    plain = _plain(loader)
    moved = torch.default_generator if plain is None or plain.generator is None else plain.generator
    generator = torch.Generator(moved.device)
    generator.set_state(moved.get_state())
    return int(torch.empty((), dtype=torch.int64, device=moved.device).random_(generator=generator))


def placed_batches(loader: Any, base: int | None, first: int = 0) -> Iterator[Any]:
    """The batches of a loader, as whole as they are without this: of several processes that train together each reads
    its share of every batch, where the data are not in memory as tensors.

    A loader that is none of torch's or Avalanche's own, whose processes live on, or that puts samples together in a way
    of its own, is read by every process whole, as it is.

    :param loader: a loader of torch's or Avalanche's.
    :param base: what the draws of this epoch follow from, :func:`drawn_base`; None for data that draw nothing, which
        one process reads as it always does.
    :param first: place of the first sample in the epoch, 0 or more.
    :raises InputError: in all processes, if one of them cannot read its share.
    """
    plain = _plain(loader)
    if plain is None:
        return iter(loader)
    ranks = None if plain.collate_fn is not default_collate or _held(plain.dataset) else sharing()
    if base is None and ranks is None:
        return iter(loader)
    assert plain.batch_sampler is not None
    orders = _Orders(plain.batch_sampler, base or 0, first, ranks)
    read: DataLoader = DataLoader(
        _ReadsOrders(plain.dataset, plain.collate_fn),
        batch_sampler=orders,  # type: ignore[arg-type]  # which gives more than numbers
        num_workers=plain.num_workers,
        collate_fn=_as_it_is,
        pin_memory=plain.pin_memory and ranks is None,
        timeout=plain.timeout,
        worker_init_fn=plain.worker_init_fn,
        multiprocessing_context=plain.multiprocessing_context,
        generator=plain.generator,
        prefetch_factor=plain.prefetch_factor,
    )
    # Avalanche's loaders draw when their first batch is asked for, torch's when they are asked for an iterator.
    batches = read if plain is not loader else iter(read)
    return _alone(batches) if ranks is None else whole_batches(batches, plain.dataset, ranks, plain.pin_memory)


class BeforeLoader:
    """Stands before a loader, and is in everything as that one is but in what a subclass says of its batches.

    :param loader: the loader before which it stands.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.loader, name)


class ByPlace(BeforeLoader):
    """Gives the batches of a loader as :func:`placed_batches` does.

    :param loader: the loader before which it stands.
    :param draws: whether what its samples draw follows from their places in the epoch.
    """

    def __init__(self, loader: Any, draws: bool) -> None:
        super().__init__(loader)
        self.draws = draws

    def __iter__(self) -> Iterator[Any]:
        return placed_batches(self.loader, drawn_base(self.loader) if self.draws else None)


def _plain(loader: Any) -> DataLoader | None:
    """The torch loader of an epoch, if it is one whose samples can be read one by one."""
    found = loader
    if isinstance(loader, MultiDatasetDataLoader) and type(loader).__iter__ is MultiDatasetDataLoader.__iter__:
        options = loader.loader_kwargs
        found = None if options.get("persistent_workers") and options.get("num_workers") else loader_of_epoch(loader)
    if type(found) is not DataLoader or found.persistent_workers or found.batch_sampler is None:
        return None
    return None if isinstance(found.dataset, IterableDataset) else found


def _held(data: Any) -> bool:
    """Whether all images lie in memory as tensors, which to read is faster than to send."""
    for source in source_datasets(data):
        images = getattr(getattr(source, "pairs", source), "images", None)
        if not isinstance(images, torch.Tensor) and not hasattr(source, "tensors"):
            return False
    return True


def _as_it_is(batch: Any) -> Any:
    return batch


# What is asked for, and who reads it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Order:
    """The samples of a batch that one process reads.

    :param rows: their numbers in the data set.
    :param first: place of the first of them in the epoch.
    :param base: what the epoch's draws follow from.
    :param counts: how many each process reads; None where this one reads all.
    """

    rows: list[Any]
    first: int
    base: int
    counts: list[int] | None

    def seed(self, number: int) -> int:
        """The seed of a sample, by its number among these."""
        words = (self.base % 2**64).to_bytes(8, "little") + (self.first + number).to_bytes(8, "little")
        return int.from_bytes(hashlib.blake2b(words, digest_size=7).digest(), "little")


class _Orders:
    """Orders in the place of a sampler's batches.

    :param batches: numbers of the samples of each batch.
    :param base: what the epoch's draws follow from.
    :param first: place of the first sample in the epoch.
    :param ranks: the processes that share them out; None where this one reads all.
    """

    def __init__(self, batches: Iterable[Any], base: int, first: int, ranks: Ranks | None) -> None:
        self.batches, self.base, self.first, self.ranks = batches, base, first, ranks

    def __iter__(self) -> Iterator[_Order]:
        place, ranks = self.first, self.ranks
        for batch in self.batches:
            rows = list(batch)
            if ranks is None or len(rows) < ranks.size:
                yield _Order(rows, place, self.base, None)
            else:
                shares = [ranks.share(len(rows), rank) for rank in range(ranks.size)]
                own = shares[ranks.rank]
                yield _Order(rows[own], place + own.start, self.base, [share.stop - share.start for share in shares])
            place += len(rows)


class _ReadsOrders(Dataset):
    """Reads orders.

    :param data: samples by number.
    :param collate: puts samples together.
    """

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any]) -> None:
        self.data, self.collate = data, collate
        self.begun = self.draws = False
        """Whether a sample was read, and whether one has drawn."""

    def __getitems__(self, order: Any) -> Any:
        try:
            with generators_kept():
                return ReadShare(self.collate(self._samples(order)), order.counts)
        except InputError as error:  # torch would make a page of it, with the names of its processes
            if get_worker_info() is not None:  # its sentence alone: of an error of somebody's own not all can be sent
                error = InputError(str(error))
            return ReadShare(None, order.counts, error)

    def _samples(self, order: _Order) -> list[Any]:
        """To seed costs as much as to read a small picture, so samples are seeded one by one only where they draw."""
        samples: list[Any] = []
        if not order.rows:
            return samples
        if not self.draws:
            seed_generators(order.seed(0))
            before = generators_at()
            if not self.begun:  # of data that draw most draw in every sample: then none is read twice
                self.begun = True
                samples = self._all(order.rows[:1])
                self.draws = generators_at() != before
            if not self.draws:
                found = samples + self._all(order.rows[len(samples) :])
                if generators_at() == before:
                    return found
                self.draws = True
        for number, row in enumerate(order.rows[len(samples) :], start=len(samples)):
            seed_generators(order.seed(number))
            samples += self._all([row])
        return samples

    def _all(self, rows: list[Any]) -> list[Any]:
        """Samples as torch reads them: at once where the data offer that, and in that case never one by one."""
        at_once = getattr(self.data, "__getitems__", None)
        return [self.data[row] for row in rows] if at_once is None else list(at_once(rows)) if rows else []


def _alone(batches: Iterable[ReadShare]) -> Iterator[Any]:
    for read in batches:
        if read.failure is not None:
            raise read.failure
        yield read.batch
