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
from avalanche_vlm.benchmarks.sources.contents import as_number, digest_of, remember
from avalanche_vlm.benchmarks.sources.images import check_ends, read_image, refuse_no_file
from avalanche_vlm.benchmarks.sources.manifest import (
    DECODED,
    HEADER,
    UNCHECKED,
    Files,
    keep_known,
    known_digests,
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
    paths: Sequence[str | Path],
    data: Path,
    check: Check = "full",
    workers: int | None = None,
    files: Files | None = None,
) -> Generator[str | None, None, None]:
    """What is wrong with each of some image files, in their order, as soon as it is known.

    What is found in order is kept in the data set's :mod:`~avalanche_vlm.benchmarks.sources.manifest`, also when the
    caller stops in between; a file that cannot be read is read again the next time.

    :param paths: paths of image files, each once.
    :param data: folder or table of the data set that they belong to.
    :param check: ``"full"`` decodes every file; ``"fast"`` reads its header and sees whether it ends as its format
        ends, and decodes what it cannot tell; ``"none"`` sees that it is there.
    :param workers: processes that read, 0 for this one; None for one on each processor that this process may use.
    :param files: what the system says of the files; None to look at them.
    :return: a sentence for each file that cannot be read, None for each that can.
    :raises InputError: for another ``check``, or a negative number of workers.
    """
    if check not in get_args(Check):
        raise InputError(f"check is none, fast or full, not {check!r}")
    if workers is not None and (type(workers) is not int or workers < 0):
        raise InputError(f"check_workers is 0 or more, not {workers!r}")
    began = time.time_ns()
    return _verdicts(paths, data, check, workers, look_at(paths) if files is None else files, began)


def _verdicts(
    paths: Sequence[str | Path], data: Path, check: Check, workers: int | None, files: Files, began: int
) -> Generator[str | None, None, None]:
    place, wanted = manifest_of(data), _LEVEL[check]
    known = read_known(place)
    levels, digests = known_levels(known, files), known_digests(known, files)
    # What is there needs no look into it where none is wanted.
    left = levels < wanted if wanted else files.states[:, 0] < 0
    tell, total, done, found = listener(), int(left.sum()), 0, False
    rows = np.flatnonzero(left)
    try:
        with closing(_read(paths, rows, check, workers)) as verdicts:
            for row, open_ in enumerate(left.tolist()):
                sentence = None
                if open_:
                    sentence, digest = next(verdicts)
                    done += 1
                    if sentence is None and wanted:
                        levels[row], found = wanted, True
                        digests[row] = digest or digests[row]
                    if tell is not None and (done % CHUNK == 0 or done == total):
                        tell(done, total)
                yield sentence
    finally:
        found_out = remember(place, files, levels, digests, began)
        if found:
            keep_known(place, found_out, began)


Checked = tuple[str | None, int]
"""What is wrong with a file, and the digest of what it holds as a number, 0 where it was not taken."""


def _read(
    paths: Sequence[str | Path], rows: np.ndarray, check: Check, workers: int | None
) -> Generator[Checked, None, None]:
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
    for verdicts in loader:
        yield from verdicts


class _Chunks(Dataset[list[Checked]]):
    """What is wrong with the files of each chunk."""

    def __init__(self, paths: Sequence[str | Path], chunks: Sequence[np.ndarray], check: Check) -> None:
        self._paths, self._chunks, self._read = paths, chunks, _READ[check]
        self._whole = _LEVEL[check] == DECODED

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> list[Checked]:
        return [self._checked(Path(self._paths[row])) for row in self._chunks[index].tolist()]

    def _checked(self, path: Path) -> Checked:
        try:
            self._read(path)
            # Its bytes are at hand for the system now; later it would take another look at the whole data set.
            return None, as_number(digest_of(path)) if self._whole else 0
        except InputError as error:
            return str(error), 0


def _as_it_is(verdicts: list[Checked]) -> list[Checked]:
    return verdicts
