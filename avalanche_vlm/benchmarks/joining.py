"""Batches that several processes put together of the shares that they have read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from avalanche_vlm._ranks import Ranks
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.compat.data_sets import pinned, source_datasets
from avalanche_vlm.errors import InputError

_OVER = object()


@dataclass
class ReadShare:
    """What a process has read of a batch: its share, or all of it.

    :param batch: the samples, put together; None where they could not be read.
    :param counts: how many samples of the batch each process reads; None where each reads all.
    :param failure: why they could not be read.
    """

    batch: Any
    counts: list[int] | None
    failure: InputError | None = None

    def pin_memory(self) -> ReadShare:
        """The same in page-locked memory."""
        return ReadShare(pinned(self.batch), self.counts, self.failure)


def whole_batches(batches: Iterable[ReadShare], data: Any, ranks: Ranks, locked: bool) -> Iterator[Any]:
    """Whole batches, each of the shares that all processes have read. All come here for each of them, and for the end.

    :param batches: what this process has read of each.
    :param data: the data set that is read. What its sources pass over is told to all processes.
    :param ranks: the processes that share the batches out.
    :param locked: whether the whole batches are to lie in page-locked memory.
    :raises InputError: if a process could not read its share, which itself raises what it met there; or if the shares
        do not fit together.
    """
    ranks = ranks.on_host()
    notes = [of for source in source_datasets(data) if (of := getattr(source, "stand_ins", None)) is not None]
    noted = [0] * len(notes)
    own: Iterator[ReadShare] | None = None
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
