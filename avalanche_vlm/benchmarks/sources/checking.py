"""Checking image files before training: each once, by several processes, and again only when it has changed."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from avalanche_vlm._processors import cores
from avalanche_vlm.benchmarks.sources.images import check_ends, read_image, refuse_no_file
from avalanche_vlm.benchmarks.sources.manifest import (
    DECODED,
    HEADER,
    UNCHECKED,
    keep_known,
    known_levels,
    look_at,
    manifest_of,
    read_known,
)
from avalanche_vlm.benchmarks.sources.telling import listener
from avalanche_vlm.errors import InputError

Check = Literal["none", "fast", "full"]
"""How images are checked before training: not but for being there, by header and length, or decoded."""

CHUNK = 64
"""Files that a process checks before it says what it found."""
WORTH_PROCESSES = 512
"""Files from which on processes are started: to start them takes as long as to decode some hundred pictures."""

_READ: dict[str, Callable[[Path], Any]] = {"none": refuse_no_file, "fast": check_ends, "full": read_image}
_LEVEL = {"none": UNCHECKED, "fast": HEADER, "full": DECODED}


def checked_images(
    paths: Sequence[Path], data: Path, check: Check = "full", workers: int | None = None
) -> Generator[str | None, None, None]:
    """What is wrong with each of some image files, in their order, as soon as it is known.

    What is found in order is kept in the data set's :mod:`~avalanche_vlm.benchmarks.sources.manifest`, also when the
    caller stops in between; a file that cannot be read is read again the next time.

    :param paths: paths of image files, each once.
    :param data: folder or table of the data set that they belong to.
    :param check: ``"full"`` decodes every file; ``"fast"`` reads its header and sees whether it ends as its format
        ends, and decodes what it cannot tell; ``"none"`` sees that it is there.
    :param workers: processes that read, 0 for this one; None for one on each processor that this process may use.
    :return: a sentence for each file that cannot be read, None for each that can.
    :raises InputError: for another ``check``, or a negative number of workers.
    """
    if check not in get_args(Check):
        raise InputError(f"check is none, fast or full, not {check!r}")
    if workers is not None and (type(workers) is not int or workers < 0):
        raise InputError(f"check_workers is 0 or more, not {workers!r}")
    return _verdicts(paths, data, check, workers)


def _verdicts(
    paths: Sequence[Path], data: Path, check: Check, workers: int | None
) -> Generator[str | None, None, None]:
    place, began, wanted = manifest_of(data), time.time_ns(), _LEVEL[check]
    files = look_at(paths)
    levels = known_levels(read_known(place), files) if wanted else np.zeros(len(paths), np.uint8)
    # What is there needs no look into it where none is wanted.
    left = levels < wanted if wanted else files.states[:, 0] < 0
    tell, total, done, found = listener(), int(left.sum()), 0, False
    rows = np.flatnonzero(left)
    try:
        with closing(_read(paths, rows, check, workers)) as sentences:
            for row, open_ in enumerate(left.tolist()):
                sentence = None
                if open_:
                    sentence = next(sentences)
                    done += 1
                    if sentence is None and wanted:
                        levels[row], found = wanted, True
                    if tell is not None and (done % CHUNK == 0 or done == total):
                        tell(done, total)
                yield sentence
    finally:
        if found:
            keep_known(place, files, levels, began)


def _read(
    paths: Sequence[Path], rows: np.ndarray, check: Check, workers: int | None
) -> Generator[str | None, None, None]:
    if not len(rows):
        return
    chunks = np.split(rows, range(CHUNK, len(rows), CHUNK))
    if workers is None:
        workers = cores() if len(rows) >= WORTH_PROCESSES else 0
    if multiprocessing.current_process().daemon:
        workers = 0  # which may have no processes of its own
    loader = DataLoader(
        _Chunks(paths, chunks, check),
        batch_size=None,
        num_workers=min(workers, len(chunks)),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # nothing is drawn from the global one
    )
    for sentences in loader:
        yield from sentences


class _Chunks(Dataset[list[str | None]]):
    """What is wrong with the files of each chunk."""

    def __init__(self, paths: Sequence[Path], chunks: Sequence[np.ndarray], check: Check) -> None:
        self._paths, self._chunks, self._read = paths, chunks, _READ[check]

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> list[str | None]:
        return [self._sentence(self._paths[row]) for row in self._chunks[index].tolist()]

    def _sentence(self, path: Path) -> str | None:
        try:
            self._read(path)
        except InputError as error:
            return str(error)
        return None


def _as_it_is(sentences: list[str | None]) -> list[str | None]:
    return sentences
