"""What the commands that train share so that nothing is lost: one process in a folder, checkpoints, signals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from avalanche_vlm.errors import Interrupted
from avalanche_vlm.storage.durable import sweep
from avalanche_vlm.storage.locks import Lock
from avalanche_vlm.training.checkpoint.signals import heard, signal_name

if TYPE_CHECKING:
    from avalanche_vlm.commands.progress import Progress
    from avalanche_vlm.studies.parallel import Engine
    from avalanche_vlm.training.checkpoint import CheckpointPlugin


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Within it no other process works on the folder. What killed processes were writing there is removed.

    :param folder: the folder, made if it is not there.
    :param wait: seconds to wait for another process, 0 for none.
    :raises InputError: if another process works on it, naming that process.
    """
    with Lock(folder, otherwise="choose another --out").acquire(wait):
        sweep(folder)
        yield


class Command:
    """A command that can be told to end: its training writes a checkpoint first; where none is trained it ends at once.

    SIGTERM, SIGHUP and SIGINT tell it to end, a second one ends it without ado, and SIGUSR1 asks for a checkpoint.

    :param out: the folder that the command works on; None if it works on none.
    :param patient: whether a second signal to end is nothing new: in a worker of another process, which ends it.
    """

    def __init__(self, out: Path | None, *, patient: bool = False) -> None:
        self._out, self._patient = out, patient
        self._engine: Engine | None = None
        self._plugin: CheckpointPlugin | None = None
        self._listens = False
        self.begins: Callable[[], None] = lambda: None
        """Called when everything is ready and the training begins, with which other processes may follow."""

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within it the command hears of signals, if it runs in the main thread, which alone gets them.

        :raises Interrupted: when it was told to end.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with heard(self, patient=self._patient):
            yield

    @contextmanager
    def training(self, folder: Path, minutes: float | None) -> Iterator[CheckpointPlugin]:
        """Within it something is trained. When it was trained to its end its checkpoints are removed.

        :param folder: folder of its checkpoints.
        :param minutes: minutes from one checkpoint to the next; None for checkpoints at the experiences' ends alone.
        :return: the plugin that writes the checkpoints.
        """
        from avalanche_vlm.training.checkpoint import CheckpointPlugin

        plugin = CheckpointPlugin(folder, minutes, strict=False)
        plugin.listens(self._listens)
        self._plugin = plugin
        try:
            yield plugin
            self._plugin = None
            plugin.remove()
        finally:
            self._plugin = None

    @contextmanager
    def working(self, engine: Engine) -> Iterator[None]:
        """Within it an engine does the work, and is asked for checkpoints where the command is.

        :param engine: the engine that works.
        """
        self._engine = engine
        try:
            yield
        finally:
            self._engine = None

    def listens(self, listens: bool) -> None:
        """Say whether signals may come.

        :param listens: whether they may.
        """
        self._listens = listens
        if self._plugin is not None:
            self._plugin.listens(listens)

    def request(self) -> None:
        """Have a checkpoint written, if something is trained."""
        if self._engine is not None:
            self._engine.request()
        if self._plugin is not None:
            self._plugin.request()

    def request_end(self, number: int) -> None:
        """End the command at a signal.

        :param number: number of the signal.
        :raises Interrupted: at once, unless a training ends first.
        """
        if self._plugin is None:
            kept = "" if self._out is None else f": what is finished is kept in {self._out}"
            raise Interrupted(f"stopped by {signal_name(number)}{kept}", number)
        self._plugin.request_end(number)


def say_where(progress: Progress, label: object, plugin: CheckpointPlugin) -> None:
    """Say where an interrupted run goes on.

    :param progress: what prints the sentence.
    :param label: name of the run.
    :param plugin: the plugin that has found its checkpoint.
    """
    written = datetime.fromtimestamp(plugin.about["written"])
    when = f"{written:%H:%M}" if written.date() == datetime.now().date() else f"{written:%Y-%m-%d %H:%M}"
    progress.say(f"{label}: goes on from {plugin.resumed} (checkpoint of {when})")
