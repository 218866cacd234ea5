"""What a process says and hears that a launcher has started among several: the first one is the command."""

from __future__ import annotations

import contextlib
import io
import signal
import threading
import time
from collections.abc import Iterator

from avalanche_vlm._processors import launched, launched_as
from avalanche_vlm.errors import InputError

FIRST_SPEAKS = 5.0
"""Seconds in which the first process may say what is wrong, before another one says it."""

_told = False
"""Whether this process, which follows another one, was told to end."""


def refuse_others(command: str) -> None:
    """Refuse a command that a launcher has started several times and that only one process can do.

    :param command: name of the command.
    :raises InputError: unless it is ``run``.
    """
    if launched() > 1 and command != "run":
        raise InputError(
            f"{command} was started in {launched()} processes, and only run trains in several: start it without the "
            "launcher"
        )


@contextlib.contextmanager
def quiet_beside_first() -> Iterator[None]:
    """Within a block a process that is not the first of several says nothing: the first one says the same."""
    if launched_as() == 0:
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Within a block a process that follows another one does not end at a signal: the first one, which writes, ends
    when its iteration is over, and then this one finds itself alone."""
    global _told
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, frame: object) -> None:
        global _told
        _told = True

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, hear) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def speaks() -> bool:
    """Whether this process is to say what has gone wrong: the first one, or another one that nobody has told to end,
    as the launcher does where the first one has failed."""
    until = time.monotonic() + FIRST_SPEAKS
    while launched_as() and not _told and time.monotonic() < until:
        time.sleep(0.05)
    return not _told
