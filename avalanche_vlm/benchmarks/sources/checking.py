"""Checking image files before training: each once, by several processes, and again only when it has changed."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

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
    known_of,
    look_at,
    manifest_of,
    read_known,
)
from avalanche_vlm.benchmarks.sources.path_texts import PathTexts
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.telling import listener
from avalanche_vlm.errors import InputError

AnyPath = TypeVar("AnyPath", str, Path)

Check = Literal["none", "fast", "full"]
"""How images are checked before training: not but for being there, by header and length, or decoded."""

CHUNK = 64
"""Files that a process checks before it says what it found."""
WORTH_PROCESSES = 512
"""Files from which on processes are started: to start them takes as long as to decode some hundred pictures."""

_READ: dict[str, Callable[[Path], Any]] = {"none": refuse_no_file, "fast": check_ends, "full": read_image}
_LEVEL = {"none": UNCHECKED, "fast": HEADER, "full": DECODED}


def unreadable_files(
    paths: Iterable[AnyPath],
    data: Path,
    check: Check = "full",
    workers: int | None = None,
    first: bool = False,
    files: Files | None = None,
) -> dict[AnyPath, str]:
    """The image files that cannot be read, each with a sentence, in the order of the files.

    What is found on the way is kept in the data set's :mod:`~avalanche_vlm.benchmarks.sources.manifest`, whatever ends
    it; a file that cannot be read is read again the next time.

    :param paths: paths of image files, any number of times each.
    :param data: folder or table of the data set that they belong to.
    :param check: ``"full"`` decodes every file; ``"fast"`` reads its header and sees whether it ends as its format
        ends, and decodes what it cannot tell; ``"none"`` sees that it is there.
    :param workers: processes that read, 0 for this one; None for one on each processor that this process may use.
    :param first: whether the first file that cannot be read ends it.
    :param files: what the system says of the files, which are a sequence of paths then, each once; None to look at
        them.
    :raises InputError: for another ``check``, or a negative number of workers.
    """
    if check not in get_args(Check):
        raise InputError(f"check is none, fast or full, not {check!r}")
    if workers is not None and (type(workers) is not int or workers < 0):
        raise InputError(f"check_workers is 0 or more, not {workers!r}")
    began = time.time_ns()
    once, files = _each_once(paths, files)
    place, wanted = manifest_of(data), _LEVEL[check]
    levels, digests = known_of(partial(read_known, place), files)
    # What is there needs no look into it where none is wanted.
    rows = np.flatnonzero(levels < wanted if wanted else files.states[:, 0] < 0)
    tell, found, wrong = listener(), False, dict[AnyPath, str]()
    try:
        with closing(_read(once, rows, check, workers)) as verdicts:
            for done, (row, (sentence, digest)) in enumerate(zip(rows.tolist(), verdicts, strict=True), start=1):
                if sentence is not None:
                    wrong[once[row]] = sentence
                elif wanted:
                    levels[row], found = wanted, True
                    digests[row] = digest or digests[row]
                if tell is not None and (done % CHUNK == 0 or done == len(rows)):
                    tell(done, len(rows))
                if wrong and first:
                    break
    finally:
        remember(place, files, levels, digests, began, write=found)
    return wrong


def _each_once(paths: Iterable[AnyPath], files: Files | None) -> tuple[Sequence[AnyPath], Files]:
    """The paths, each once, and what the system says of the files. A million paths that need no text of their own get
    none: those that come again are told by the digests of their names."""
    if not isinstance(paths, PathTexts):
        once = paths if files is not None and isinstance(paths, Sequence) else list(dict.fromkeys(paths))
        return once, look_at(once) if files is None else files
    if files is not None:
        return paths, files
    files = look_at(paths)
    _, first = np.unique(files.names, axis=0, return_index=True)
    if len(first) == len(paths):
        return paths, files
    first.sort()
    return paths.at(first), files.at(first)


def left_out(
    paths: Iterable[AnyPath], data: Path, problems: Problems, check: Check, workers: int | None, begin: str = ""
) -> Collection[AnyPath]:
    """The image files that cannot be read, each of which is a problem.

    :param paths: paths of image files, any number of times each.
    :param data: folder or table of the data set that they belong to.
    :param problems: takes what is wrong with images.
    :param check: how images are checked, as :func:`unreadable_files` has it.
    :param workers: processes that check; None for one a processor.
    :param begin: what each sentence begins with.
    """
    wrong = unreadable_files(paths, data, check, workers, problems.on_error == "raise")
    for sentence in wrong.values():
        problems.add(f"{begin}{sentence}")
    return wrong.keys()


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
