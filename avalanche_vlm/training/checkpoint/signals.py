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


class Listens(Protocol):
    """What does as signals say."""

    def listens(self, listens: bool) -> None:
        """Whether signals may come."""

    def request(self) -> None:
        """Write a checkpoint soon."""

    def request_end(self, number: int) -> None:
        """End the training."""


_ENDING = ("SIGTERM", "SIGINT")
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
        print(stopped, file=sys.stderr, flush=True)
        raise SystemExit(stopped.exit_code) from None


@contextmanager
def heard(plugin: Listens) -> Iterator[None]:
    """Have someone hear of signals.

    :param plugin: what does as signals say.
    :raises InputError: outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InputError("signals come to the main thread alone: train there, or without on_signals")
    listener = _Listener(plugin)
    kept = {number: signal.getsignal(number) for number in _numbers(*_ENDING, *_GOING_ON)}
    child = getattr(signal, "SIGCHLD", None)
    of_children = None if child is None else signal.getsignal(child)
    plugin.listens(True)
    try:
        for number in kept:
            signal.signal(number, listener)
        yield
    finally:
        plugin.listens(False)
        for number, handler in kept.items():
            _put_back(number, handler)
        if child is not None and listener.ended_by is not None:
            _put_back(child, of_children)


def _put_back(number: int, handler: Any) -> None:
    # None stands for a handler that was not installed from Python, which Python cannot install again either.
    signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Listener:
    """What the process does at a signal.

    :param plugin: the plugin that writes the checkpoints.
    """

    def __init__(self, plugin: Listens) -> None:
        self.plugin = plugin
        self.process = os.getpid()
        self.ended_by: int | None = None

    def __call__(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:
            return  # a worker process, which has inherited this: its parent decides
        if number in _numbers(*_GOING_ON):
            self.plugin.request()
            return
        if self.ended_by is not None:
            os._exit(128 + number)
        self.ended_by = number
        if hasattr(signal, "SIGCHLD"):
            # A scheduler signals worker processes as well. That they are gone is then no error of the iteration, which
            # torch would break off.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.plugin.request_end(number)


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
