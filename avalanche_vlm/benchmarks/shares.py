"""Batches of which several processes read a share each, and samples that draw by their place in an epoch.

What a transform draws follows from the epoch and the sample's place in it, whoever reads the sample: this process, one
of several that load data, or another one of those that train together. So all have the batch that one process reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.benchmarks.utils.data_loader import MultiDatasetDataLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate, get_worker_info

from avalanche_vlm._generators import generators_at, generators_kept, seed_generators
from avalanche_vlm._ranks import Ranks, sharing
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.compat.data_sets import pinned, source_datasets
from avalanche_vlm.compat.strategies import loader_of_epoch
from avalanche_vlm.errors import InputError

_OVER = object()


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
    return _alone(batches) if ranks is None else _together(batches, plain.dataset, ranks, plain.pin_memory)


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


@dataclass
class _Read:
    """What comes of an order.

    :param batch: the samples, put together; None where they could not be read.
    :param counts: how many samples each process reads, as the order says.
    :param failure: why they could not.
    """

    batch: Any
    counts: list[int] | None
    failure: InputError | None = None

    def pin_memory(self) -> _Read:
        """The same in page-locked memory."""
        return _Read(pinned(self.batch), self.counts, self.failure)


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
                return _Read(self.collate(self._samples(order)), order.counts)
        except InputError as error:  # torch would make a page of it, with the names of its processes
            if get_worker_info() is not None:  # its sentence alone: of an error of somebody's own not all can be sent
                error = InputError(str(error))
            return _Read(None, order.counts, error)

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


def _alone(batches: Iterable[_Read]) -> Iterator[Any]:
    for read in batches:
        if read.failure is not None:
            raise read.failure
        yield read.batch


# Several processes ----------------------------------------------------------------------------------------------------


def _together(batches: Iterable[_Read], data: Any, ranks: Ranks, locked: bool) -> Iterator[Any]:
    """Whole batches, in page-locked memory or not. All processes come here for each of them, and for the end."""
    ranks = ranks.on_host()
    notes = [of for source in source_datasets(data) if (of := getattr(source, "stand_ins", None)) is not None]
    noted = [0] * len(notes)
    own: Iterator[_Read] | None = None
    while True:
        read: Any = _OVER
        failure: Exception | None = None
        try:
            own = iter(batches) if own is None else own
            read = next(own, _OVER)
        except Exception as error:  # of any kind: a transform is anybody's, and the others wait
            failure = error
        if read is not _OVER and read.failure is not None:
            failure = read.failure
        shapes = None if failure is not None or read is _OVER else _shapes(read.batch)
        told = ranks.told((_sentence(failure, ranks.rank), shapes, _met(notes, noted)))
        for *_, met in told:
            for of, rows in zip(notes, met, strict=True):
                of.met[torch.tensor(rows, dtype=torch.int64)] = 1
        _all_have_read(ranks, told, failure)
        if read is _OVER:
            return
        whole = read.batch if read.counts is None else _whole(read.batch, ranks, read.counts)
        yield pinned(whole) if locked else whole


def _sentence(failure: Exception | None, rank: int) -> str | None:
    if failure is None or isinstance(failure, InputError):
        return None if failure is None else str(failure)
    return f"process {rank} cannot read its share of a batch: {type(failure).__name__}: {failure}"


def _all_have_read(ranks: Ranks, told: list[Any], failure: Exception | None) -> None:
    """Go on if everybody has read, what can be put together."""
    for rank, (sentence, shapes, _) in enumerate(told):
        if sentence is not None:
            raise failure if rank == ranks.rank and failure is not None else InputError(sentence)
        if shapes != told[0][1]:
            raise InputError(f"the samples of a batch differ and cannot be put together: {told[0][1]} and {shapes}")


def _met(notes: list[Any], noted: list[int]) -> list[list[int]]:
    """The images of each data set that could not be read, where there are more of them than were told."""
    found: list[list[int]] = []
    for number, of in enumerate(notes):
        count = int(of.met.sum(dtype=torch.int64))
        found.append(of.met.nonzero().flatten().tolist() if count > noted[number] else [])
        noted[number] = count
    return found


def _mapped(part: Any, change: Callable[[Any], Any]) -> Any:
    """A batch with every column changed: of tensors, or of what is no tensor, a list."""
    if isinstance(part, ImageText):
        return ImageText(change(part.image), change(part.tokens))
    if isinstance(part, Mapping):
        return {name: _mapped(of, change) for name, of in part.items()}
    if isinstance(part, list | tuple) and not any(isinstance(of, str | bytes) for of in part):
        changed = [_mapped(of, change) for of in part]
        return type(part)(*changed) if hasattr(part, "_fields") else changed
    return change(part)


def _shapes(batch: Any) -> list[str]:
    found: list[str] = []

    def note(column: Any) -> None:
        known = isinstance(column, torch.Tensor)
        found.append(f"{column.dtype} {list(column.shape[1:])}" if known else type(column).__name__)

    _mapped(batch, note)
    return found


def _whole(batch: Any, ranks: Ranks, counts: list[int]) -> Any:
    def gathered(column: Any) -> Any:
        if not isinstance(column, torch.Tensor):
            return [of for part in ranks.told(list(column)) for of in part]
        return ranks.rows(column, counts)

    return _mapped(batch, gathered)
