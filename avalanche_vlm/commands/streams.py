"""The process's standard streams, which may be closed, full, or read by nobody any more."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class Printed:
    """A standard stream that may fail, and no work with it: what cannot be written is dropped from there on.

    :param stream: the stream; None for one that was closed before the process began.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115, as long as the process
        self._closed = stream is None
        self.failure: OSError | None = None
        """Why something that was written is lost; None if nothing is."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, where that is possible.

        :param text: what is written.
        """
        if self._closed:
            self.failure = OSError(errno.EBADF, "it is closed")
        if self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._fails(error)
        return len(text)

    def flush(self) -> None:
        """Have what was written written out."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fails(error)

    def _fails(self, error: OSError) -> None:
        """From here on everything goes nowhere: what the stream still holds as well, which the interpreter writes out
        at its end."""
        self.failure = error
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def guarded() -> Iterator[Printed]:
    """Within it standard output and standard error fail nothing.

    Where one of them is closed, a file that is opened would get its number, and what a library writes to it would go
    into that file: the numbers are taken first.

    :return: standard output, which says afterwards whether it has failed.
    """
    _take_numbers()
    before = sys.stdout, sys.stderr
    out, err = Printed(before[0]), Printed(before[1])
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _take_numbers() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
