"""The pictures of reference pairs as a data set, and read ahead of those who ask for them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from avalanche_vlm._ranks import sharing
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.benchmarks.shares import placed_batches


class PairPictures(Dataset):
    """Pictures of reference pairs as the model takes them, by the pairs' numbers.

    :param pairs: the pairs; their captions are not read.
    """

    def __init__(self, pairs: ReferencePairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.pairs.transform(self.pairs.images[number])


def read_ahead(
    pairs: ReferencePairs, batches: Iterable[list[int]], workers: int, pinned: bool = False
) -> Iterator[torch.Tensor] | None:
    """Batches of pictures, which processes read while the ones before are trained on.

    :param pairs: reference pairs whose pictures are read.
    :param batches: the numbers of each batch; read further than batches are asked for.
    :param workers: number of processes.
    :param pinned: whether batches lie in pinned memory.
    :return: pictures ``[B, 3, H, W]`` of each batch; None where processes would bring nothing: there are none, and none
        that train together, this is one of somebody's, or the pictures are in memory as they are.
    """
    if not (workers or sharing()) or multiprocessing.current_process().daemon or hasattr(pairs.images, "nbytes"):
        return None
    loader: DataLoader = DataLoader(
        PairPictures(pairs),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # the seeds of its processes: nothing is drawn from the global one
    )
    return placed_batches(loader, None)


def pictures_at(pairs: ReferencePairs, rows: Sequence[int]) -> torch.Tensor:
    """Some of the pictures ``[n, 3, H, W]``, of which several processes that train together read a share each.

    :param pairs: reference pairs whose pictures are read.
    :param rows: the numbers of the pairs, at least one.
    """
    return next(iter(ordered_batches(Subset(PairPictures(pairs), rows), len(rows))))
