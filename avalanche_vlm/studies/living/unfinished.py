"""The part of an update that was killed: the same update goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from avalanche_vlm._flat import differing, flat
from avalanche_vlm.artifacts.layout import VERSIONS
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.durable import replace_file
from avalanche_vlm.training import VLMNaive
from avalanche_vlm.training.checkpoint import CheckpointPlugin, resume

_REQUEST = "update.json"


class Unfinished:
    """A folder beside the versions that an update is trained in, and goes from when its version is whole.

    :param folder: the folder that the model is saved to.
    :param version: name of the version that is being made.
    :param request: all that decides the update, in JSON types.
    :param minutes: minutes between two checkpoints within an experience; None for checkpoints at the ends alone.
    :raises InputError: if another update was interrupted there, naming what differs, or nothing can be written.
    """

    def __init__(self, folder: Path, version: str, request: Mapping[str, Any], minutes: float | None) -> None:
        self.folder = folder / VERSIONS / f".{version}-training"
        asked: dict[str, Any] = json.loads(json.dumps(request))
        self._refuse_other(version, asked)
        replace_file(self.folder / _REQUEST, json.dumps(asked, indent=1).encode())
        self.plugin = CheckpointPlugin(self.folder / "checkpoint", minutes)

    def resume(self, strategy: VLMNaive) -> int:
        """Take a strategy back to where the update was interrupted.

        :param strategy: the strategy, with :attr:`plugin` among its plugins.
        :return: number of new experiences that are trained; 0 for an update that begins.
        """
        return resume(strategy, self.plugin.folder)

    @contextmanager
    def listening(self, signals: bool) -> Iterator[None]:
        """Within a block a signal ends the update with a checkpoint.

        :param signals: whether signals are heard, which only the main thread can.
        """
        with self.plugin.on_signals() if signals else nullcontext():
            yield

    def done(self) -> None:
        """The version is whole: what it was trained in goes."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _refuse_other(self, version: str, request: dict[str, Any]) -> None:
        path = self.folder / _REQUEST
        if not path.exists():
            return
        try:
            there = json.loads(path.read_text())
        except (OSError, ValueError):
            return  # nothing was trained yet when it was written
        for name in differing([request, there]):
            then, now = flat(there).get(name), flat(request).get(name)
            raise InputError(
                f"an update to {version} was interrupted with {name} = {then!r}, and this one has {now!r}: the same "
                f"update goes on; to begin another one remove {self.folder}"
            )
