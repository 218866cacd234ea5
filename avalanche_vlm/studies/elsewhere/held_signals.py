"""Signals that wait while processes are begun, which would get them as well."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Within it signals wait, and what is begun does not get them: they are heard when it is known what was handed in,
    and as what."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) is not None}
    came: list[int] = []
    for of in before:  # which another thread may get
        signal.signal(of, lambda number, frame: came.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, before)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        for of, handler in before.items():
            signal.signal(of, handler)
    for number in dict.fromkeys(came):
        signal.raise_signal(number)


@contextlib.contextmanager
def kept_from_children(name: str) -> Iterator[None]:
    """Within it a signal is kept from processes that are begun, and waits for this one.

    :param name: name of the signal, such as SIGUSR2.
    """
    number = getattr(signal, name)
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
