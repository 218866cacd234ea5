"""The plugin that a user gives to a strategy so that its training is never lost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from avalanche_vlm._ranks import leads
from avalanche_vlm.errors import InputError, Interrupted, VLMWarning
from avalanche_vlm.memory.packing import HasState
from avalanche_vlm.memory.state import TRANSIENT
from avalanche_vlm.storage import Lock
from avalanche_vlm.training.checkpoint.contents import OfCheckpoints, unknown_parts, vlm_of
from avalanche_vlm.training.checkpoint.folder import Position, holds_checkpoints, remove_checkpoints
from avalanche_vlm.training.checkpoint.recorder import Recorder
from avalanche_vlm.training.checkpoint.signals import BreakOffError, handled, signal_name
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.settings import CHECKPOINT_MINUTES

_LOCKS: WeakValueDictionary[Path, Lock] = WeakValueDictionary()
"""The folders that this process writes to: a training that is started anew in it takes its folder over."""


class CheckpointPlugin(OfCheckpoints, VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Writes everything that a training is, so that one that was killed goes on as if it had not been.

    Together with :func:`~avalanche_vlm.training.checkpoint.resume` these are two lines of a script::

        strategy = Naive(..., plugins=[*plugins, CheckpointPlugin("checkpoints")])
        for experience in benchmark.train_stream[resume(strategy, "checkpoints") :]:
            strategy.train(experience)
            strategy.eval(benchmark.test_stream)

    Whenever the script is killed and started again, it ends with the weights, metrics and random states of one that
    never was: at the start and at the end of every experience everything is written, and within one every so many
    minutes. What the script does after ``train`` is done again if it was not over when the next experience began. The
    script has to make its model, plugins and strategy in the same way each time.

    Where several processes train together the first one writes, and all of them read: the folder is one that all see.

    :param folder: folder of the checkpoints, of this training alone; made if it is not there.
    :param minutes: minutes between two checkpoints within an experience, 0 or more; 0 writes after every iteration, and
        None writes none but at the experiences' ends.
    :param also: further objects that change with the training, by name, each with torch's pair of methods
        ``state_dict`` and ``load_state_dict``.
    :param conditions: JSON values by name that a training which goes on must have in common with the one that was
        killed: what decides its figures and is seen neither in the strategy nor in its plugins, such as a recipe's
        options or the content of the data.
    :param strict: whether plugins, metrics and strategies of which nobody knows what they keep are refused before
        anything is trained; otherwise they are named in a warning, and start anew in a training that is resumed.
    :raises InputError: for a number of minutes below 0.
    """

    # Of the process, not of the training.
    states: ClassVar = dict.fromkeys(("_recorder", "_lock", "_wanted", "_stop", "_listens"), TRANSIENT)

    def __init__(
        self,
        folder: str | Path,
        minutes: float | None = CHECKPOINT_MINUTES,
        *,
        also: Mapping[str, HasState] | None = None,
        conditions: Mapping[str, Any] | None = None,
        strict: bool = True,
    ) -> None:
        super().__init__()
        if minutes is not None and not 0 <= minutes < math.inf:
            raise InputError(f"checkpoints are 0 minutes or more apart (None for none in between), not {minutes}")
        self.folder = Path(folder)
        self.minutes, self.strict = minutes, strict
        self.also = dict(also or {})
        self.resumed: Position | None = None
        """Where :func:`~avalanche_vlm.training.checkpoint.resume` has found the training; None if it is a new one."""
        self.about: dict[str, Any] = {}
        """What was noted beside the checkpoint that was found: ``written``, in seconds since 1970, and more."""
        self.conditions: Mapping[str, Any] = conditions or {}
        self.noted: Callable[[], Mapping[str, Any]] = dict
        """Gives further JSON values that are noted beside each checkpoint, and can be read without it."""
        self.writing: Callable[[], AbstractContextManager[Any]] = nullcontext
        """Makes the context in which a checkpoint is written."""
        self._recorder: Recorder | None = None
        self._lock: Lock | None = None
        self._wanted = self._stop = self._listens = False

    @property
    def position(self) -> Position | None:
        """Where the same script would go on now; None while nothing is written."""
        return None if self._recorder is None else self._recorder.writer.last_written

    def request(self, *, stop: bool = False) -> None:
        """Have a checkpoint written as soon as the present iteration is over.

        :param stop: whether the training ends then, with :class:`~avalanche_vlm.errors.Interrupted`. What takes long
            besides iterations (an evaluation, what follows an experience) is not waited for. Of processes that train
            together the first one is to be asked.
        """
        self._wanted, self._stop = True, self._stop or stop
        if self._recorder is not None:
            self._recorder.wanted = True
            if stop:
                self._recorder.stop = self._recorder.stop or "stopped as asked"

    def request_end(self, number: int) -> None:
        """End the training at a signal: when its iteration is over if there is one, otherwise at once.

        :param number: number of the signal.
        :raises Interrupted: where no iteration is being trained.
        """
        if not leads():
            return  # the first process ends, and with it all
        self.request(stop=True)
        recorder = self._recorder
        if recorder is None:
            raise Interrupted(f"stopped by {signal_name(number)}: nothing was trained", number)
        recorder.stop, recorder.signal = f"stopped by {signal_name(number)}", number
        if recorder.phase == "loading":
            raise BreakOffError
        in_iteration = recorder.phase == "training" and recorder.strategy.is_training
        if not in_iteration and recorder.phase not in ("between", "writing"):
            recorder.end()

    def listens(self, listens: bool) -> None:
        """Say whether signals may come, which break off the loading of a batch.

        :param listens: whether they may.
        """
        self._listens = listens
        if self._recorder is not None:
            self._recorder.watched = listens

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Within this block SIGTERM, SIGINT and SIGHUP write a checkpoint and end the process, with one sentence and
        the exit codes 143, 130 and 129; a second one ends it at once. A SIGHUP that is ignored, as under ``nohup``,
        stays so. SIGUSR1 writes a checkpoint, and the training goes on.

        During an iteration it is finished first. Anywhere else (in an evaluation, while an experience is prepared or
        concluded) the process ends at once, and the checkpoint before stands.

        :raises InputError: outside of the main thread, which alone can be signalled.
        """
        with handled(self):
            yield

    def attach(self, strategy: Any) -> Recorder:
        """Put what writes the checkpoints behind all plugins of a strategy, once.

        :param strategy: the strategy that has this plugin.
        :return: what writes the checkpoints.
        :raises InputError: if the strategy has what cannot be part of a checkpoint, or another process writes to the
            folder.
        """
        recorder = self._recorder
        if recorder is not None and recorder.strategy is strategy:
            return recorder
        vlm_of(strategy)
        if others := [p for p in strategy.plugins if isinstance(p, CheckpointPlugin) and p is not self]:
            raise InputError(f"a strategy has one CheckpointPlugin: take the one out that writes to {others[0].folder}")
        if unknown := unknown_parts(strategy):
            names = ", ".join(unknown)
            if self.strict:
                raise InputError(
                    f"nobody knows what keeps what in {names}, so that no checkpoint could have it: leave it out, "
                    "declare its state (avalanche_vlm.memory.state.Stateful), or take CheckpointPlugin(strict=False), "
                    "with which it starts anew in a training that is resumed"
                )
            warnings.warn(f"checkpoints do not have what {names} keep", VLMWarning, stacklevel=3)
        if leads():
            self._lock_folder()
        recorder = self._recorder = Recorder(strategy, self.folder, self.minutes, self.also, self.strict)
        recorder.watched, recorder.writer.context = self._listens, lambda: self.writing()
        recorder.noted = lambda: {"conditions": dict(self.conditions), **self.noted()}
        recorder.wanted, recorder.stop = self._wanted, "stopped as asked" if self._stop else None
        return recorder

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Called by the strategy.

        :raises InputError: if the folder has checkpoints that nobody has looked at.
        """
        new = self._recorder is None or self._recorder.strategy is not strategy
        self.attach(strategy)
        if new and leads() and holds_checkpoints(self.folder):
            raise InputError(
                f"{self.folder} has checkpoints of a training already: call resume(strategy, {str(self.folder)!r}) "
                "before the first experience, or choose another folder"
            )

    def remove(self) -> None:
        """Remove the checkpoints of a training that has come to its end, and give the folder up.

        :raises InputError: if a file cannot be removed.
        """
        if self._recorder is not None:
            self._recorder.writer.discard()
        if self._lock is not None:
            self._lock.release()
        if leads():
            remove_checkpoints(self.folder)

    def _lock_folder(self) -> None:
        path = self.folder.resolve()
        if (held := _LOCKS.get(path)) is not None:
            held.release()
        self._lock = Lock(self.folder).acquire()
        _LOCKS[path] = self._lock
