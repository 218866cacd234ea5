"""Writes checkpoints one after the other, and knows which one a killed training would go on from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from avalanche_vlm._ranks import leads
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.memory.packing import StateDict
from avalanche_vlm.storage import StateWriter
from avalanche_vlm.training.checkpoint.folder import Position, SavedTraining, write


class CheckpointWriter:
    """Writes the checkpoints of one training.

    A checkpoint that cannot be written, on a full disk for example, is told of once and ends nothing: the last one that
    was written stands, and the next one is tried. Those within an experience stand on the one at its start, so that
    where that one failed the next one is at the experience's end. The very first one has to be written, while nothing
    is lost yet.

    :param folder: folder of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self.states = StateWriter(folder)
        self.context: Callable[[], AbstractContextManager[Any]] = nullcontext
        """Makes the context in which a checkpoint is written and the disk is waited for."""
        self.last_written: Position | None = None
        """Where a killed process would go on from; None from the very start."""
        self.last_synced: Position | None = None
        """Where a machine that has lost its power would, at least."""
        self.base: str | None = None
        """What tells the state that the experience started from; None if it could not be written."""
        self._unsynced: Position | None = None
        self._warned = False
        self.leads = leads()
        """Whether it writes anything: of processes that train together the first one does, for all of them."""

    def follow(self, checkpoint: SavedTraining) -> None:
        """Go on from a checkpoint that is there.

        :param checkpoint: what was read.
        """
        self.base, self.last_written, self.last_synced = checkpoint.base, checkpoint.position, checkpoint.position

    def write(self, position: Position, contents: Callable[[], tuple[StateDict, Mapping[str, Any]]]) -> None:
        """Write a checkpoint, if there is what it would stand on.

        :param position: where the training is.
        :param contents: gives everything that the training is, by name, and the JSON values that are noted beside it.
        :raises InputError: if the very first one cannot be written, or if the disk is not the reason.
        """
        within = position.stage == "within"
        if not self.leads:
            self.last_written = position
            return
        try:
            with self.context():
                self.settle()
                if within and self.base is None:  # the disk may just have refused it
                    return
                state, about = contents()
                self._unsynced = position
                own = write(self.states, state, position, about, self.base if within else None)
        except InputError as error:
            first = self.last_written is None and not self._warned
            if not isinstance(error.__cause__, OSError) or first:
                raise
            self._failed(position, error)
        else:
            self.base = self.base if within else own
            self.last_written, self._warned = position, False

    def settle(self, *, wait: bool = True) -> None:
        """See whether the disk has the last checkpoint.

        :param wait: whether to wait for it.
        """
        if self.states.settled:
            return
        try:
            with self.context():
                if self.states.settle(wait=wait):
                    self.last_synced = self._unsynced
        except InputError as error:
            self.last_written = self.last_synced
            self._failed(self._unsynced, error)

    def discard(self) -> None:
        """Wait for nothing any more: the folder is about to be removed."""
        self.states.discard()

    def _failed(self, position: Position | None, error: InputError) -> None:
        """Go on without a checkpoint. It is told once, and again if it has happened anew.

        :param position: where it was to be from.
        :param error: why there is none.
        """
        stage = None if position is None else position.stage
        if stage != "within":
            self.base = None
        if not self._warned:
            where = "the start" if self.last_written is None else self.last_written
            following = "the one at the experience's end" if stage == "start" else "the next one"
            warnings.warn(
                f"no checkpoint was written: {error}; the training goes on and tries {following}, and until that is "
                f"written a killed one would go on from {where}",
                VLMWarning,
                stacklevel=2,
            )
        self._warned = True
