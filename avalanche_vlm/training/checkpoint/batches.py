"""The minibatches of an epoch: how many were trained, and how an epoch starts behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from avalanche.benchmarks.utils.data_loader import MultiDatasetDataLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from avalanche_vlm.benchmarks.shares import BeforeLoader, drawn_base, placed_batches
from avalanche_vlm.compat.strategies import loader_of_epoch
from avalanche_vlm.errors import InputError
from avalanche_vlm.training.checkpoint.signals import BreakOffError

_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
"""What draws all that it draws from the global generator when an epoch starts."""
END = object()
"""What is loaded when an epoch is over."""


class Owner(Protocol):
    """Who is told where in an epoch a training is."""

    def started(self) -> None:
        """The batches that were trained before are passed over: a training that is resumed takes its state now."""

    def between(self, trained: int) -> None:
        """An iteration is wholly over, and nothing of the next one is drawn.

        :param trained: batches of the epoch that are trained.
        """

    def load(self, batches: Iterator[Any]) -> Any:
        """Load the next batch.

        :param batches: the iterator over the batches of the epoch.
        :return: the batch; :data:`END` where there is none.
        :raises BreakOffError: if the training is to end, and nothing of the iteration has begun.
        """


class EpochBatches(BeforeLoader):
    """Stands before a strategy's loader for one epoch, and tells its owner of every batch.

    A loader that walks through several data sets starts the shorter ones anew within an epoch, with a draw from the
    generator that training draws from as well. For such a loader ``drawn`` has the generator's state before every
    batch at which it is not the one that the batch before has left.

    :param loader: the strategy's loader.
    :param owner: who is told.
    :param trained: batches at the start of the epoch that were trained before.
    :param drawn: what ``drawn`` was then.
    """

    def __init__(
        self, loader: Any, owner: Owner, trained: int = 0, drawn: dict[int, torch.Tensor] | None = None
    ) -> None:
        super().__init__(loader)
        self.owner, self.trained = owner, trained
        self.by_place = False
        """Whether what samples draw follows from their places in the epoch."""
        self.drawn: dict[int, torch.Tensor] = dict(drawn or {})

    def __iter__(self) -> Iterator[Any]:
        batches = _behind(self.loader, self.trained, self.drawn, self.by_place)
        self.owner.started()
        watched, left = _has_several(self.loader), None
        for trained in range(self.trained, 1 << 62):
            self.owner.between(trained)
            if watched and (left is None or not torch.equal(left, torch.get_rng_state())):
                self.drawn[trained] = torch.get_rng_state()
            try:
                batch = self.owner.load(batches)
            except BreakOffError:
                self.owner.between(trained)
                raise
            if batch is END:
                return
            left = torch.get_rng_state() if watched else None
            yield batch


class Nothing:
    """In the place of a loader for an epoch that was trained before: no batch.

    :param loader: the loader whose length it has, since strategies refuse an empty one.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def refuse_loader(loader: Any) -> None:
    """Refuse a loader whose epoch cannot be gone on with in the middle.

    :param loader: the strategy's loader.
    :raises InputError: if its batches do not follow from the global generators alone, naming what is in the way.
    """
    if sentence := _in_the_way(loader):
        raise InputError(
            f"a training can be gone on with in the middle of an experience only where its batches follow from the "
            f"global random generators, and {sentence}: change that, or write checkpoints at the experiences' ends "
            "alone, CheckpointPlugin(minutes=None)"
        )


def loader_settings(loader: Any) -> dict[str, Any]:
    """What decides the draws of a loader, besides its data and the size of its batches.

    :param loader: a loader of torch's or Avalanche's; any other tells nothing.
    :return: settings by the names that they have for ``strategy.train``.
    """
    if isinstance(loader, MultiDatasetDataLoader):
        options = loader.loader_kwargs
        return {
            "num_workers": int(options.get("num_workers", 0)),
            "shuffle": bool(options.get("shuffle", False)),
            "drop_last": bool(options.get("drop_last", False)),
        }
    if isinstance(loader, DataLoader):
        shuffles = not isinstance(loader.sampler, SequentialSampler)
        return {"num_workers": loader.num_workers, "shuffle": shuffles, "drop_last": loader.drop_last}
    return {}


def _in_the_way(loader: Any) -> str | None:
    kind = type(loader).__name__
    if isinstance(loader, MultiDatasetDataLoader):
        options = loader.loader_kwargs
        if loader.never_ending:
            return f"{kind} has no end"
        if options.get("persistent_workers") and options.get("num_workers", 0):
            return "persistent_workers keep generators of their own from one epoch to the next"
        return None if options.get("generator") is None else f"the {kind} draws from a generator of its own"
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return f"those of a {kind} may not" if type(loader) is not DataLoader else "an iterable data set is walked once"
    if loader.persistent_workers:
        return "persistent_workers keep generators of their own from one epoch to the next"
    batches = loader.batch_sampler
    if type(batches) is not BatchSampler or type(batches.sampler) not in _SAMPLERS:
        odd = batches.sampler if type(batches) is BatchSampler else batches
        return f"the order of a {type(odd).__name__} may not"
    if loader.generator is not None or getattr(batches.sampler, "generator", None) is not None:
        return "the loader draws from a generator of its own"
    return None


def _has_several(loader: Any) -> bool:
    return isinstance(loader, MultiDatasetDataLoader) and len(loader.datasets) > 1


def _behind(loader: Any, trained: int, drawn: dict[int, torch.Tensor], by_place: bool) -> Iterator[Any]:
    """The batches of an epoch behind the first ones. The generators are then to be set to where they were.

    In the process itself nothing is loaded that is not needed. Other processes have generators whose state no one sees,
    so they do again what they did.
    """
    base = drawn_base(loader) if by_place else None
    if trained == 0:
        return _opened(loader, base)
    if not _has_several(loader) and loader_settings(loader).get("num_workers") == 0:
        plain: Any = loader_of_epoch(loader) if isinstance(loader, MultiDatasetDataLoader) else loader
        torch.empty((), dtype=torch.int64).random_()  # torch's draw for worker processes comes first
        indices = iter(plain.batch_sampler)
        first = sum(len(next(indices)) for _ in range(trained))
        rest: Any = indices
        left: Any = DataLoader(
            plain.dataset, batch_sampler=rest, collate_fn=plain.collate_fn, pin_memory=plain.pin_memory
        )
        return _opened(left, base, first)
    batches = _opened(loader, base)
    for number in range(trained):
        if number in drawn:
            torch.set_rng_state(drawn[number])
        next(batches)
    return batches


def _opened(loader: Any, base: int | None, first: int = 0) -> Iterator[Any]:
    return iter(loader) if base is None else placed_batches(loader, base, first)
