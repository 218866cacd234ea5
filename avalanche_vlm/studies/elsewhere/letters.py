"""What an element of Slurm's array and whoever waits for it say to each other: files in a folder that both see."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import replace_file
from avalanche_vlm.studies.parallel import Hear
from avalanche_vlm.studies.workers import Answer, warned_again

_ASKED = "asked.json"
_HEAD = 8
"""Bytes that say how long the next answer is."""


class Letters:
    """What an element says, as far as it was read.

    :param folder: the folder that it writes to, a file for each of its starts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, int] = {}
        self._unreadable: set[str] = set()

    @property
    def begun(self) -> bool:
        """Whether the element has begun."""
        return self.folder.exists()

    def deliver(self, index: int, hear: Hear) -> None:
        """Have someone hear what was not read before.

        :param index: number of the work.
        :param hear: hears what it tells.
        """
        for answer in self._new():
            if not warned_again(answer) and answer.told is not None:
                hear(index, answer.told[0])

    def _new(self) -> Iterator[Answer]:
        with contextlib.suppress(OSError):  # it has not begun, or its file system is away: there is a next time
            for name in sorted(set(os.listdir(self.folder)) - self._unreadable):
                yield from self._new_in(name)

    def _new_in(self, name: str) -> Iterator[Answer]:
        with (self.folder / name).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(self._read.get(name, 0))
            while len(head := file.read(_HEAD)) == _HEAD:
                length = int.from_bytes(head, "big")
                if file.tell() + length > size:
                    return  # the rest is on its way
                try:
                    answer = pickle.loads(file.read(length))
                except Exception:  # a damaged file: what an element comes to stands elsewhere
                    self._unreadable.add(name)
                    return
                self._read[name] = file.tell()
                yield answer


def write_letter(letter: Path, said: Sequence[Answer]) -> None:
    """Add what was said to a file. A full disk ends no work: what it has no room for is not said.

    :param letter: the file that it is added to.
    :param said: what was said since the last time.
    """
    with contextlib.suppress(OSError), letter.open("ab", buffering=0) as file:
        for answer in said:
            body = pickle.dumps(answer)
            whole = len(body).to_bytes(_HEAD, "big") + body
            ended = file.seek(0, os.SEEK_END)
            if file.write(whole) < len(whole):
                file.truncate(ended)  # the next one begins where this one would have
                return


def write_asked(folder: Path, checkpoints: int, end: int | None) -> bool:
    """Say what elements are to do.

    :param folder: the folder in which each has one of its own.
    :param checkpoints: checkpoints that were asked for so far.
    :param end: number of the signal that they are to end at; None to go on.
    :return: whether it could be said: a disk may be full.
    """
    try:
        replace_file(folder / _ASKED, json.dumps({"checkpoints": checkpoints, "end": end}).encode())
    except InputError:
        return False
    return True


def read_asked(folder: Path) -> tuple[int, int | None]:
    """Checkpoints that were asked for so far, and the number of the signal that the works are to end at.

    :param folder: the folder in which each element has one of its own.
    """
    try:
        content = json.loads((folder / _ASKED).read_bytes())
        return int(content["checkpoints"]), content["end"]
    except (OSError, ValueError):
        return 0, None  # it is being replaced
