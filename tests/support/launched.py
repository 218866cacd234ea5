"""Programs in several processes, as torchrun starts them. They are copies of one that has imported everything, which
takes longer than most of what they do."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Ended(NamedTuple):
    """What a process has left: its exit code (minus the signal that has killed it), output and errors."""

    code: int
    out: str
    errors: str


class Launch:
    """Processes that find each other by their environment.

    :param folder: an empty folder, for what they say.
    :param count: number of processes.
    :param module: module with a ``main`` that takes arguments as a list, and gives an exit code or None.
    :param arguments: the arguments.
    """

    def __init__(self, folder: Path, count: int, module: str, *arguments: str) -> None:
        self.folder, self.count = folder, count
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        self._parent = subprocess.Popen(
            [sys.executable, __file__, str(folder), str(count), module, *arguments], env={**os.environ, **meeting}
        )

    def said(self, rank: int, stream: str = "out") -> str:
        """What a process has said so far."""
        path = self.folder / f"{rank}.{stream}"
        return path.read_text() if path.exists() else ""

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        """Signal a process."""
        os.kill(int((self.folder / f"{rank}.pid").read_text()), number)

    def ended(self, seconds: float = 900) -> list[Ended]:
        """What each has left when all have ended."""
        try:
            self._parent.wait(seconds)
            codes = [int((self.folder / f"{rank}.code").read_text()) for rank in range(self.count)]
            return [Ended(code, self.said(rank), self.said(rank, "err")) for rank, code in enumerate(codes)]
        finally:
            self.stop()

    def stop(self) -> None:
        """Leave no process behind."""
        if self._parent.poll() is None:
            for path in self.folder.glob("*.pid"):
                os.kill(int(path.read_text()), signal.SIGKILL)
            self._parent.kill()
            self._parent.wait()


def wait_for(there: Path, launch: Launch, seconds: float = 600) -> None:
    """Go on when a file or folder is there."""
    until = time.monotonic() + seconds
    while not there.exists():
        assert time.monotonic() < until and launch._parent.poll() is None, launch.ended()
        time.sleep(0.05)


def _one(folder: Path, rank: int, module: str, arguments: list[str]) -> int:
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT), number)
    try:
        return int(importlib.import_module(module).main(arguments) or 0)
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _all(folder: Path, count: int, module: str, arguments: list[str]) -> None:
    for name in (module, "avalanche_vlm.studies.experiment", "avalanche_vlm.commands.run", "avalanche_vlm.artifacts"):
        importlib.import_module(name)
    os.environ["WORLD_SIZE"] = str(count)
    ranks = {}
    for rank in range(count):
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
        if (pid := os.fork()) == 0:
            os._exit(_one(folder, rank, module, arguments))
        ranks[pid] = rank
        (folder / f"{rank}.pid").write_text(str(pid))
    while ranks:
        pid, status = os.wait()
        rank = ranks.pop(pid)
        (folder / f"{rank}.code").write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    _all(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
