"""Works for engines whose workers are other programs: they import this module by itself."""

from __future__ import annotations

import os
import signal
import socket
import time
import warnings
from pathlib import Path
from typing import Any

from avalanche_vlm.errors import DataWarning, InputError, Interrupted
from avalanche_vlm.training.checkpoint.signals import heard

Tell = Any


def double(number: int, tell: Tell) -> int:
    tell(("doubling", number))
    warnings.warn("two names are alike", DataWarning, stacklevel=1)
    return 2 * number


def refuse(tell: Tell) -> None:
    raise InputError("row 3 is empty")


def fault(tell: Tell) -> None:
    raise ValueError("odd\nand more")


def preempt(tell: Tell) -> None:
    """What becomes of a work whose processes all get SIGTERM, this one before it can say so."""
    os.kill(watcher(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGKILL)


def end(tell: Tell) -> None:
    """End as a training does that was told to."""
    raise Interrupted("stopped by SIGTERM", signal.SIGTERM)


def watcher() -> int:
    """The process that watches this one: a forkserver lies between them."""
    return parent_of(os.getppid())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def lose(folder: Path, name: str, times: int, whom: str, tell: Tell) -> str:
    """Lose the worker that watches this, or this itself, so many times.

    :param whom: ``watcher``, ``worker``, or ``told``, to be told to end by nobody who may.
    """
    starts = folder / name
    with starts.open("a") as file:
        file.write("begun\n")
    begun = len(starts.read_text().splitlines())
    tell(("begun", begun))
    if begun <= times:
        time.sleep(0.2)  # what was told is on its way
        if whom == "told":
            raise Interrupted("stopped by SIGTERM", signal.SIGTERM)
        os.kill(watcher() if whom == "watcher" else os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return f"{begun} on {socket.gethostname()}"


class Patient:
    """Ends as a training does: when it has written down where it was."""

    def __init__(self, file: Path) -> None:
        self.file, self.number, self.wanted = file, 0, 0

    def listens(self, listens: bool) -> None: ...

    def request(self) -> None:
        self.wanted += 1
        self.file.with_suffix(".asked").write_text(str(self.wanted))

    def request_end(self, number: int) -> None:
        self.number = number


def train(file: Path, enough: int, tell: Tell) -> int:
    """Count on from where the file is; told to end, write there how far it is."""
    listener = Patient(file)
    count = int(file.read_text()) if file.exists() else 0
    with heard(listener, patient=True):
        tell(("at", count))
        while count < enough or not file.exists():
            time.sleep(0.01)
            count += 1
            if listener.number:
                file.write_text(str(enough))
                raise Interrupted("stopped", listener.number)
    return count
