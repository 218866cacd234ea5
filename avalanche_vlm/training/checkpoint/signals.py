"""Signals that a training listens to."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.units import tell


class BreakOffError(BaseException):
    """The training is to end, and a batch was being loaded: nothing of its iteration has begun."""


class Listens(Protocol):
    """What does as signals say."""

    def listens(self, listens: bool) -> None:
        """Whether signals may come."""

    def request(self) -> None:
        """Write a checkpoint soon."""

    def request_end(self, number: int) -> None:
        """End the training."""


_ENDING = ("SIGTERM", "SIGINT", "SIGHUP")
_GOING_ON = ("SIGUSR1",)


@contextmanager
def handled(plugin: Listens) -> Iterator[None]:
    """Have a plugin's training listen to signals, and the process end with the code that says which one ended it.

    :param plugin: the plugin that writes the checkpoints.
    :raises InputError: outside of the main thread.
    """
    try:
        with heard(plugin):
            yield
    except Interrupted as stopped:
        tell(stopped, errors=True)
        raise SystemExit(stopped.exit_code) from None


@contextmanager
def heard(plugin: Listens, *, patient: bool = False) -> Iterator[None]:
    """Have someone hear of signals.

    :param plugin: what does as signals say.
    :param patient: whether a second signal to end is nothing new, as in a process of which another one takes care, and
        which both of them may be sent; otherwise it ends the process without ado.
    :raises InputError: outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InputError("signals come to the main thread alone: train there, or without on_signals")
    before = {number: signal.getsignal(number) for number in _numbers(*_ENDING, *_GOING_ON)}
    for number in _numbers("SIGHUP"):
        if before[number] is signal.SIG_IGN:
            del before[number]  # as nohup has it: the terminal may go
    listener = _Listener(plugin, before, patient)
    unraisable, sys.unraisablehook = sys.unraisablehook, listener.ignored
    plugin.listens(True)
    try:
        for number in list(before):
            signal.signal(number, listener)
        yield
    finally:
        plugin.listens(False)
        sys.unraisablehook = unraisable
        listener.give_back()


class _Listener:
    """What the process does at a signal.

    :param plugin: the plugin that writes the checkpoints.
    :param before: what the process did before, by the signal's number; None for what is not Python's.
    :param patient: whether a second signal to end is nothing new.
    """

    def __init__(self, plugin: Listens, before: dict[int, Any], patient: bool) -> None:
        self.plugin, self.before, self.patient = plugin, before, patient
        self.process = os.getpid()
        self.ended_by: int | None = None
        self.unraisable = sys.unraisablehook

    def __call__(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:
            self._in_child(number, frame)
            return
        if number in _numbers(*_GOING_ON):
            self.plugin.request()
            return
        if self.ended_by is not None and self.patient:
            return
        if self.ended_by is not None:
            os._exit(128 + number)
        self.ended_by = number
        if hasattr(signal, "SIGCHLD"):
            # A scheduler signals worker processes as well. That they are gone is then no error of the iteration, which
            # torch would break off. (The system's own way would have Python complain of one that is gone already.)
            self.before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, _unheard))
        self.plugin.request_end(number)

    def ignored(self, unraisable: Any) -> None:
        """Signal again where what ends the process was raised in a finalizer, which lets nothing through.

        :param unraisable: what Python says of an exception that it could not raise.
        """
        number = self.ended_by
        if number is None or not isinstance(unraisable.exc_value, Interrupted | BreakOffError):
            self.unraisable(unraisable)
            return
        self.ended_by = None
        again = threading.Timer(0.02, os.kill, (self.process, number))
        again.daemon = True
        again.start()

    def give_back(self) -> None:
        """Have the process do again what it did before."""
        for number, handler in self.before.items():
            # None stands for a handler that was not installed from Python, which Python cannot install again either.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _in_child(self, number: int, frame: Any) -> None:
        """In a process that has inherited this. The terminal and the scheduler signal it as well, and its parent
        decides; but the parent ends it by SIGTERM."""
        if number != signal.SIGTERM:
            return
        before = self.before.get(number)
        if callable(before):
            before(number, frame)
        elif before is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _unheard(number: int, frame: Any) -> None:
    """Do nothing."""


def _numbers(*names: str) -> list[int]:
    """The signals of these names that the system has."""
    return [int(getattr(signal, name)) for name in names if hasattr(signal, name)]


def signal_name(number: int) -> str:
    """A signal's name.

    :param number: number of the signal, as the system has it.

    >>> signal_name(15)
    'SIGTERM'
    """
    return signal.Signals(number).name
