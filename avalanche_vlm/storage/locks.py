"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import warnings
from datetime import datetime
from pathlib import Path

from typing_extensions import Self

from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.storage.durable import make_folder, reason

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What a file system says that has no locks."""


class Lock:
    """The right to write to a folder, which one process at a time has. A process that has ended, however it did, has it
    no longer; neither have the processes that it forked. Two locks of one process exclude each other as well.

    The file ``.lock`` stays in the folder when the lock is given up: removing it would let a third process in while a
    second one waits for the first. On a file system that has no locks a warning says so, and nobody is kept out.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as home, Lock(home):
    ...     Lock(home).acquire()
    Traceback (most recent call last):
    ...
    avalanche_vlm.errors.InputError: ... is in use by process ... on ... since ...: wait until it is done

    :param folder: the folder, made if it is not there.
    :param name: name of the file in it that is locked.
    :param otherwise: what one can do instead of waiting, as the sentence to one who comes too late ends with it.
    """

    def __init__(self, folder: str | Path, *, name: str = NAME, otherwise: str | None = None) -> None:
        self.folder, self._otherwise = Path(folder), "" if otherwise is None else f", or {otherwise}"
        self.path = self.folder / name
        self._handle: int | None = None
        self._taken = False
        self.excludes = True
        """Whether others are kept out while this object has the lock: False where the file system has none."""

    @property
    def held(self) -> bool:
        """Whether this object has the lock at present."""
        return self._taken

    def acquire(self, wait: float = 0.0) -> Self:
        """Take the lock.

        :param wait: seconds to wait for another holder, 0 for none.
        :return: the lock itself.
        :raises InputError: if another process, or another lock of this one, has it, naming the process; or if the file
            cannot be written.
        """
        if self._handle is not None:
            raise InputError(f"this lock on {self.folder} is held already")
        try:
            make_folder(self.folder)
            with _OPENING:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
                self._handle = handle
                _OPEN.add(self)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {reason(error)}") from error
        try:
            self._take(handle, time.monotonic() + wait)
        except BaseException:
            self.release()
            raise
        self._taken = True
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        with contextlib.suppress(OSError):  # on a full disk the lock is as good without a name in it
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(holder).encode() + b"\n", 0)
        return self

    def release(self) -> None:
        """Give the lock up; nothing happens where it is not held."""
        handle, self._handle, self._taken = self._handle, None, False
        _OPEN.discard(self)
        if handle is not None:
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def __enter__(self) -> Self:
        return self if self.held else self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _take(self, handle: int, until: float) -> None:
        if fcntl is None:
            self._warn("this system has no locks that a dead process gives up")
            return
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise InputError(self._in_use(handle)) from error
                time.sleep(0.02)
            except OSError as error:
                if error.errno not in _UNKNOWN:
                    raise InputError(f"cannot lock {self.folder}: {reason(error)}") from error
                self._warn(f"its file system has no locks ({reason(error)})")
                return
            else:
                return

    def _warn(self, why: str) -> None:
        self.excludes = False
        warnings.warn(
            f"{self.folder} cannot be locked: {why}. See that no second process writes to it",
            VLMWarning,
            stacklevel=4,
        )

    def _in_use(self, handle: int) -> str:
        try:
            holder = json.loads(os.pread(handle, 4096, 0))
            who = f"process {int(holder['pid'])} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            who = "another process"  # one that has it since a moment ago
        return f"{self.folder} is in use by {who}: wait until it is done{self._otherwise}"

    def _forget(self) -> None:
        """Let a forked process go without the lock: it would hold it on when its parent is dead."""
        if self._handle is not None:
            os.close(self._handle)
        self._handle, self._taken = None, False


_OPEN: set[Lock] = set()
"""The locks that have their file open, those that wait for another holder as well: a process that is forked meanwhile
has the file open, too, and would have the lock as soon as its parent has it."""
_OPENING = threading.RLock()
"""Held while a file is opened and noted as open, between which no other thread is to fork."""


def _in_child() -> None:
    _OPENING.release()
    for lock in list(_OPEN):
        lock._forget()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_OPENING.acquire, after_in_parent=_OPENING.release, after_in_child=_in_child)
