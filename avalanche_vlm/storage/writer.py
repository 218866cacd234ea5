"""States that are saved one after the other, while the disk is still busy with the one before."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.storage.durable import reason, sync_file, sync_folder
from avalanche_vlm.storage.manifests import Content, object_path
from avalanche_vlm.storage.objects import distrust
from avalanche_vlm.storage.saving import PATIENCE, remove_older, written_state


class _Unsynced(NamedTuple):
    """A state that is written, and what the disk may not have of it yet."""

    state: Path
    kind: str
    keep: int
    paths: list[Path]


class StateWriter:
    """Saves the states of a folder as :func:`~avalanche_vlm.storage.saving.save_state` does, and costs less.

    A tensor whose bytes are still those of the file that it was written to is not hashed: the two are compared. And
    nobody waits for the disk: a state is whole for every process when :meth:`save` is over, and another thread sees
    that the disk has it; only then older states are removed. If the machine loses its power before, the new state is
    seen to be damaged and the one before is there. The first state that is saved, and the next one after a failure,
    wait for all of their files, whoever wrote them: a killed process may have left some that the disk does not have.

    :param folder: folder of states, which this process alone saves to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._before: dict[str, Content] = {}
        self._certain = False
        """Whether the disk has, or is asked for, every file that a state could name without writing it."""
        self._behind = _Behind(self.folder)
        weakref.finalize(self, self._behind.finish)  # at the end of the process as well

    def save(
        self, state: Mapping[str, Any], *, name: str, kind: str, about: Mapping[str, Any] | None = None, keep: int = 2
    ) -> Path:
        """Write a state.

        :param state: tensors, on any device, and JSON values by name. It may change when this is over.
        :param name: what the state is called; one of the same name is replaced.
        :param kind: what kind of state it is.
        :param about: JSON values that can be read without the state; None for none.
        :param keep: number of states of this kind that are kept at most, at least 1.
        :return: the file that describes the state.
        :raises InputError: if it cannot be written, or the disk did not take the state before; those that are on the
            disk are then untouched.
        :raises TypeError: if an entry is neither a tensor that a file can hold nor a JSON value.
        """
        self.settle()
        unsynced: list[Path] = []
        certain, self._certain = self._certain, False
        path, contents = written_state(
            self.folder,
            state,
            name=name,
            kind=kind,
            about=about,
            keep=keep,
            before=self._before,
            unsynced=unsynced,
        )
        self._before |= contents
        self._certain = True
        if not certain:
            files = {content.file for content in contents.values()}
            unsynced = list(dict.fromkeys([*(object_path(self.folder, file) for file in sorted(files)), *unsynced]))
        self._behind.begin(_Unsynced(path, kind, keep, unsynced))
        return path

    @property
    def settled(self) -> bool:
        """Whether nothing is waited for."""
        return self._behind.written is None

    def settle(self, *, wait: bool = True) -> bool:
        """Remove what is older, if the disk has the newest state.

        :param wait: whether to wait for the disk.
        :return: whether it has.
        :raises InputError: if the disk did not take the state. It is then removed with all that it alone has, and what
            the next one needs of that is written anew.
        """
        try:
            return self._behind.settle(wait)
        except InputError:
            self._before, self._certain = {}, False
            raise

    def discard(self) -> None:
        """Wait for nothing any more: the folder is about to be removed."""
        self._behind.discard()


class _Behind:
    """The thread that waits for the disk, and what is to be done when it is over."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process = folder, os.getpid()
        self.written: _Unsynced | None = None
        self.thread: threading.Thread | None = None
        self.failures: list[tuple[Path, OSError]] = []
        self.given_up = False

    def begin(self, written: _Unsynced) -> None:
        self.written, self.failures, self.given_up = written, [], False
        self.thread = threading.Thread(target=self._sync, args=(written.paths,), name="checkpoint")
        self.thread.start()

    def settle(self, wait: bool, patience: float = PATIENCE) -> bool:
        written, thread = self.written, self.thread
        if written is None or thread is None or os.getpid() != self.process:  # of a copy of the process it is none
            return True
        if wait:
            thread.join()
        elif thread.is_alive():
            return False
        self.written = self.thread = None
        if self.failures:
            distrust(path for path, _ in self.failures)
            with contextlib.suppress(OSError):  # a disk that fails may be read-only from then on
                written.state.unlink(missing_ok=True)
        with contextlib.suppress(InputError):  # what is not cleared away now is so after the next state
            remove_older(self.folder, written.kind, 0 if self.failures else written.keep, patience)
        if self.failures:
            path, failure = self.failures[0]
            raise InputError(f"cannot write to {failure.filename or path}: {reason(failure)}") from failure
        return True

    def discard(self) -> None:
        self.given_up = True
        if self.thread is not None and os.getpid() == self.process:
            self.thread.join()
        self.written = self.thread = None

    def finish(self) -> None:
        """Do what is left to be done, if the folder is still there. Nobody asks for the outcome any more."""
        if not self.folder.is_dir():
            return
        try:
            # Python may collect a writer in the middle of what the next one writes, in the thread that has the lock.
            self.settle(True, patience=0)
        except InputError as error:
            warnings.warn(f"the last state that was saved to {self.folder} is lost: {error}", VLMWarning, stacklevel=2)

    def _sync(self, paths: list[Path]) -> None:
        for path in paths:
            if self.given_up:
                return
            try:
                (sync_folder if path.is_dir() else sync_file)(path)
            except FileNotFoundError:  # it was removed, whoever did it
                continue
            except OSError as error:
                self.failures.append((path, error))
