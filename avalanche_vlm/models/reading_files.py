"""Image files in batches for a model, read by other processes, with a sentence on each that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from avalanche_vlm.benchmarks.sources.gathering import Gathered
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.pictures import prepared


@dataclass(frozen=True)
class FileBatch:
    """Some images, read.

    :param names: what each is called, those that could not be read included.
    :param problems: a sentence on each that could not be read, None for the others.
    :param images: the images that could be read, ``[n, 3, H, W]``, in their order.
    """

    names: list[str]
    problems: list[str | None]
    images: torch.Tensor


def read_batches(
    find: Callable[[], Iterable[Gathered]], transform: ImageTransform, batch_size: int, workers: int = 0
) -> Iterator[FileBatch]:
    """Images in the order in which they are found. Of each process no more than three batches are held.

    :param find: finds the images, the same ones whenever it is called; every process calls it for itself.
    :param transform: the model's transform without augmentation.
    :param batch_size: images per batch, at least 1.
    :param workers: processes that read; 0 for this one.
    :raises InputError: if one of these processes ends before its work is done.
    """
    loader = DataLoader(
        _Batches(find, transform, batch_size),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_they_are,
        generator=torch.Generator(),  # nothing is drawn: the global one stays where it is
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(f"a process that reads images has ended: {str(error).splitlines()[0]}") from error


class _Batches(IterableDataset):
    """Of N processes, process n reads every N-th batch from the n-th on: the loader asks them in turn."""

    def __init__(self, find: Callable[[], Iterable[Gathered]], transform: ImageTransform, batch_size: int) -> None:
        self.find, self.transform, self.batch_size = find, transform, batch_size

    def __iter__(self) -> Iterator[FileBatch]:
        info = get_worker_info()
        number, of = (0, 1) if info is None else (info.id, info.num_workers)
        for batch in islice(_in_batches(self.find(), self.batch_size), number, None, of):
            yield _read(batch, self.transform)


def _in_batches(found: Iterable[Gathered], size: int) -> Iterator[list[Gathered]]:
    left = iter(found)
    while batch := list(islice(left, size)):
        yield batch


def _read(batch: Sequence[Gathered], transform: ImageTransform) -> FileBatch:
    images, problems = [], []
    for name, path, problem in batch:
        if path is not None:
            try:
                images.append(prepared(path, transform, name))
            except InputError as error:
                problem = str(error)
        problems.append(problem)
    none = torch.zeros(0, 3, transform.size, transform.size)
    return FileBatch([name for name, _, _ in batch], problems, torch.stack(images) if images else none)


def _as_they_are(batch: Any) -> Any:
    return batch
