"""A work that is done on a machine of a cluster: in a worker, which a process that the cluster has started watches.

So it is done as on this machine: in the main thread of a process of its own, which hears of signals, writes its
checkpoints, and ends when the one that watches it is gone, however that was.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.parallel import Failure, returned_or_failed
from avalanche_vlm.studies.workers import Answer, Worker


@dataclass(frozen=True)
class SharedFolders:
    """Where the files are that works are about: on a file system that all machines see.

    :param home: the folder that relative paths begin in.
    :param folder: a folder that is there, of whoever asks for the works.
    """

    home: Path
    folder: Path

    @classmethod
    def around(cls, folder: Path) -> SharedFolders:
        """The folders as this process sees them.

        :param folder: a folder that is there, of whoever asks for the works.
        """
        return cls(Path.cwd(), folder.absolute())

    def enter(self) -> None:
        """Have relative paths mean here what they mean there.

        :raises InputError: if this machine does not see the folders.
        """
        for folder in (self.folder, self.home):
            if not folder.is_dir():
                raise InputError(
                    f"{socket.gethostname()} has no folder {folder}: what a cluster works on lies on a file system "
                    "that all of its machines see, under the same path"
                )
        os.chdir(self.home)


class Watched:
    """A work that is done in a worker of this process, and what is said of it.

    :param name: what it is called in a sentence.
    :param work: the pickled function that does it.
    :param threads: threads of torch; None leaves torch out.
    :param folders: where the files are that it is about.
    """

    def __init__(self, name: str, work: bytes, threads: int | None, folders: SharedFolders) -> None:
        self._said: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._worker: Worker | None = None
        try:
            folders.enter()
            self._worker = Worker(name, partial(returned_or_failed, partial(_unpickled, work)), threads)
        except Exception as error:
            self._said.put(Answer(value=(None, Failure.of(error))))
            return
        self._listener = threading.Thread(target=self._listen, args=(self._worker,), daemon=True)
        self._listener.start()

    def answers(self, seconds: float) -> list[Answer]:
        """What was said since this was asked before.

        :param seconds: how long it is waited for, 0 or more.
        """
        found: list[Answer] = []
        with suppress(queue.Empty):
            found.append(self._said.get(timeout=seconds))
            while True:
                found.append(self._said.get_nowait())
        return found

    def request(self) -> None:
        """Have a checkpoint written."""
        if self._worker is not None:
            self._worker.request()

    def end(self, number: int | None = None, seconds: float = 0.0) -> None:
        """Tell it to end.

        :param number: number of the signal that it ends as at; None for SIGTERM.
        :param seconds: how long it is waited for, after which it is killed; 0 leaves it to itself.
        """
        if self._worker is None:
            return
        self._worker.end(number)
        if not seconds:
            return
        # No lock is waited for: this may be called where a signal has interrupted one that holds it.
        until = time.monotonic() + seconds
        while self._listener.is_alive() and time.monotonic() < until:
            time.sleep(0.05)
        if self._listener.is_alive() and self._worker.pid is not None:
            os.kill(self._worker.pid, signal.SIGKILL)

    def _listen(self, worker: Worker) -> None:
        while True:
            self._said.put(answer := worker.answer())
            if answer.last:
                worker.join()
                return


def _unpickled(work: bytes, tell: Callable[[Any], None]) -> Any:
    """Do a work; what it needs is imported by the worker alone, and what cannot be is its ending."""
    return pickle.loads(work)(tell)
