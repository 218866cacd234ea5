"""The part of an update that was killed: the same update goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from typing_extensions import TypedDict

from avalanche_vlm._flat import differing, flat
from avalanche_vlm.artifacts import version_names
from avalanche_vlm.artifacts.layout import VERSIONS, next_version
from avalanche_vlm.errors import InputError
from avalanche_vlm.storage.documents import EXACT, Document
from avalanche_vlm.storage.json_files import TruncatedError
from avalanche_vlm.studies.living.records import read_record
from avalanche_vlm.training import VLMNaive
from avalanche_vlm.training.checkpoint import CheckpointPlugin, resume

_REQUEST = "update.json"


class AskedUpdate(TypedDict):
    """All that decides an update, in JSON types."""

    __pydantic_config__ = EXACT  # type: ignore[misc]

    request: dict[str, JsonValue]


ASKED: Document[AskedUpdate] = Document("the request of an update", AskedUpdate)


class Unfinished:
    """A folder beside the versions that an update is trained in, and goes from when its version is whole.

    :param folder: the folder that the model is saved to.
    :param version: name of the version that is being made.
    :param request: all that decides the update, in JSON types.
    :param minutes: minutes between two checkpoints within an experience; None for checkpoints at the ends alone.
    :raises InputError: if another update was interrupted there, naming what differs, or nothing can be written.
    """

    def __init__(self, folder: Path, version: str, request: Mapping[str, Any], minutes: float | None) -> None:
        self.folder = _home(folder, version)
        asked: dict[str, Any] = json.loads(json.dumps(request))
        self._refuse_other(version, asked)
        ASKED.write(self.folder / _REQUEST, {"request": asked})
        self.plugin = CheckpointPlugin(self.folder / "checkpoint", minutes)

    def resume(self, strategy: VLMNaive) -> int:
        """Take a strategy back to where the update was interrupted.

        :param strategy: the strategy, with ``plugin`` among its plugins.
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
        """The version is whole and settled: what it was trained in goes."""
        _remove(self.folder)

    def _refuse_other(self, version: str, request: dict[str, Any]) -> None:
        path = self.folder / _REQUEST
        if not path.exists():
            return
        try:
            there = ASKED.read(path)["request"]
        except TruncatedError:
            return  # nothing was trained yet when it was written
        for name in differing([request, there]):
            then, now = flat(there).get(name), flat(request).get(name)
            raise InputError(
                f"an update to {version} was interrupted with {name} = {then!r}, and this one has {now!r}: the same "
                f"update goes on; to begin another one remove {self.folder}"
            )


def _home(folder: Path, version: str) -> Path:
    return folder / VERSIONS / f".{version}-training"


def refuse_finished(folder: Path, version: str) -> None:
    """Say once that an update was over which was killed in its last moment, so that who gives the command again does
    not have the same month learned twice.

    :param folder: the folder that the model is saved to.
    :param version: name of the version that is the model.
    :raises InputError: if what it was trained in lies there still; it is removed.
    """
    left = _home(folder, version)
    if not (left / _REQUEST).exists():
        return
    _remove(left)
    raise InputError(
        f"{version} is the model already, and the update that made it was killed as it ended: nothing of it is left to "
        "do, and the command given again learns something new"
    )


def version_to_make(folder: Path, request: Mapping[str, Any]) -> tuple[str, bool]:
    """The version that an update makes: the one whose files are whole already, where the same update was killed before
    it had settled what becomes of it, or else the next one. What others have left behind of whole versions goes.

    :param folder: the folder that the model is saved to.
    :param request: all that decides the update, in JSON types.
    :return: name of the version, and whether its files are whole.
    """
    asked = json.loads(json.dumps(request))
    found = None
    for version in version_names(folder):
        left = _home(folder, version)
        if not left.exists():
            continue
        record = read_record(folder, version)
        try:
            same = ASKED.read(left / _REQUEST)["request"] == asked
        except InputError:
            same = False
        if same and record.parent == asked["goes on from"]:
            found = version
        else:
            _remove(left)
    return (next_version(folder), False) if found is None else (found, True)


def _remove(folder: Path) -> None:
    """Remove a folder; half removed it is that of no update any more."""
    with suppress(OSError):
        (folder / _REQUEST).unlink()
    shutil.rmtree(folder, ignore_errors=True)
