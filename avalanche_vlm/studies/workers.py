"""A process that does one thing, tells what happens meanwhile, and hears when it is to end."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

_CHECKPOINT = "checkpoint"
_TOLD, _WARNED, _DONE = "told", "warned", "done"
_WARNINGS: dict[Any, Any] = {}
"""What was warned of by workers, as Python keeps it for a module: of the same thing once."""


@dataclass(frozen=True)
class Answer:
    """What a worker says: one of the four.

    :param told: what its work tells, in a tuple of one.
    :param warned: text, category, file and line of a warning, which is no concern of whoever asked for the work.
    :param value: what the work has returned.
    :param died: a sentence on how the process ended that has returned nothing.
    """

    told: tuple[Any] | None = None
    warned: tuple[str, type[Warning], str, int] | None = None
    value: Any = None
    died: str | None = None

    @property
    def last(self) -> bool:
        """Whether the work is over."""
        return self.told is None and self.warned is None


def prepare_workers(modules: Sequence[str]) -> None:
    """Begin to import what workers will need, once for all of them, while this process does something else.

    On systems that fork, workers are forked off a process that has done nothing but import, and so start at once. They
    import for themselves elsewhere.

    :param modules: dotted names of modules; those that cannot be imported are left to the workers.
    """
    if _METHOD == "forkserver":
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload(list(modules))
        forkserver.ensure_running()


_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class Worker:
    """A process that does one thing.

    It ends at once when this process has ended, however that was.

    :param name: what it does.
    :param work: function that does it, given a function to tell things by; pickled, like all that it tells and returns.
    :param threads: threads of torch; None leaves torch out.
    """

    def __init__(self, name: str, work: Callable[[Callable[[Any], None]], Any], threads: int | None) -> None:
        context: Any = multiprocessing.get_context(_METHOD)  # each has a Process, which their base does not say
        self.connection, theirs = context.Pipe()
        try:
            self._process = context.Process(target=_work, args=(theirs, work, threads), name=name)
            with _no_program():
                self._process.start()
        finally:
            theirs.close()

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

    def answer(self) -> Answer:
        """The next thing that it says, waiting for it."""
        try:
            kind, content = self.connection.recv()
        except Exception:  # the process is gone, or was while it spoke
            return Answer(died=self._end_of_process())
        if kind == _WARNED:
            return Answer(warned=content)
        return Answer(told=(content,)) if kind == _TOLD else Answer(value=content)

    def end(self, number: int | None = None) -> None:
        """Tell it to end.

        :param number: number of the signal that it ends as at; None for SIGTERM.
        """
        self._send(signal.SIGTERM if number is None else number)

    def request(self) -> None:
        """Tell it to write a checkpoint."""
        self._send(_CHECKPOINT)

    def join(self) -> None:
        """Wait until the process is gone, and give up what is held for it."""
        self._process.join()
        self.connection.close()

    def _send(self, what: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self.connection.send(what)

    def _end_of_process(self) -> str:
        self.connection.close()  # which ends the process, if it should be there still
        self._process.join()
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"its process ended without a word (exit code {code})"
        name = signal.Signals(-code).name
        why = ": the system does so where memory is short" if -code == getattr(signal, "SIGKILL", 9) else ""
        return f"its process was ended by {name}{why}"


@contextlib.contextmanager
def _no_program() -> Iterator[None]:
    """Within it a process that is started does not begin with this one's program, as it otherwise would: a script
    without a guard would train in the worker what it has the worker for, and nothing of a work is defined there."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def first_answers(workers: Mapping[Any, Worker]) -> Iterator[tuple[Any, Answer]]:
    """What workers say next: waits for the first, and has those that have spoken by then.

    :param workers: workers by any key.
    :return: keys and answers.
    """
    by_connection = {worker.connection: key for key, worker in workers.items()}
    for connection in wait(list(by_connection)):
        key = by_connection[connection]
        if not warned_again(answer := workers[key].answer()):
            yield key, answer


def warned_again(answer: Answer) -> bool:
    """Warn here of what a worker warns of.

    :param answer: what the worker says.
    :return: whether that was all of it.
    """
    if answer.warned is None:
        return False
    text, category, file, line = answer.warned
    warnings.warn_explicit(text, category, file, line, registry=_WARNINGS)
    return True


def _work(connection: Connection, work: Callable[[Callable[[Any], None]], Any], threads: int | None) -> None:
    """What the process does."""
    if hasattr(signal, "pthread_sigmask"):
        # What a cluster starts may have them blocked, and so has what that starts.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1})
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until someone listens: there is nothing to write yet
    threading.Thread(target=_obey, args=(connection,), daemon=True).start()
    alone = threading.RLock()

    def send(kind: str, content: Any) -> None:
        with alone:  # a message is one, whatever thread it is from
            connection.send((kind, content))

    def warn(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        send(_WARNED, (str(message), category, filename, lineno))

    warnings.showwarning = warn
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    send(_DONE, work(lambda told: send(_TOLD, told)))


def _obey(connection: Connection) -> None:
    """Do as the process says that has asked for the work, and end when it is gone."""
    ended = False
    while True:
        try:
            told = connection.recv()
        except (EOFError, OSError):
            os._exit(1)
        if told == _CHECKPOINT:
            os.kill(os.getpid(), signal.SIGUSR1)
        elif not ended:
            ended = True
            os.kill(os.getpid(), told)
