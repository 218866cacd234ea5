"""The folder of a training's checkpoints, and which of them it goes on from.

At an experience's start and at its end everything is written as a state of the kind ``EXPERIENCE``. Within it
everything is written as one of the kind ``ITERATION``, which names the state that the experience started from: what
goes on within an experience needs both, for what is made as it starts is made anew from there.
"""

from __future__ import annotations

import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.memory.packing import StateDict
from avalanche_vlm.storage import StateWriter, Stored, load_state, state_names
from avalanche_vlm.storage.durable import reason
from avalanche_vlm.storage.manifests import manifest_path, read_manifest

EXPERIENCE, ITERATION = "experience of a training", "iteration of a training"

Stage = Literal["start", "within", "trained"]


@dataclass(frozen=True)
class Position:
    """Where in a stream a training is.

    :param experience: number of the experience that is being trained, or was last, from 0 on.
    :param stage: ``"start"``: nothing of it is trained; ``"within"``: a part is; ``"trained"``: all is, and what the
        script does after it may be done or not.
    :param epoch: number of the epoch, from 0 on.
    :param iteration: iterations of the epoch that are over.
    """

    experience: int
    stage: Stage
    epoch: int = 0
    iteration: int = 0

    def __str__(self) -> str:
        if self.stage == "trained":
            return f"the end of experience {self.experience}"
        if self.stage == "start":
            return f"the start of experience {self.experience}"
        return f"experience {self.experience}, epoch {self.epoch}, iteration {self.iteration}"


@dataclass(frozen=True)
class SavedTraining:
    """A state to go on from.

    :param position: where the training was.
    :param state: everything at an experience's start or end.
    :param base: what tells that state from all others.
    :param about: what was noted beside it.
    :param within: everything in the middle of the experience that started from ``state``; None at its start or end.
    """

    position: Position
    state: dict[str, Any]
    base: str
    about: dict[str, Any]
    within: dict[str, Any] | None = None


def write(
    writer: StateWriter, state: StateDict, position: Position, about: Mapping[str, Any], base: str | None = None
) -> str:
    """Write a checkpoint.

    :param writer: what saves to the folder of checkpoints.
    :param state: everything that the training is, tensors and JSON values by name.
    :param position: where the training is.
    :param about: JSON values to be noted beside it.
    :param base: what this function gave for the state that the experience started from; None at its start or end.
    :return: what tells this state from all others, those of the same name included.
    :raises ValueError: within an experience without a base, or elsewhere with one.
    :raises InputError: if it cannot be written; the states before are then as they were.
    """
    within = position.stage == "within"
    if within == (base is None):
        raise ValueError(f"{position} has {'no' if within else 'a'} state that it stands on")
    where = f"{position.experience:04d}-{position.stage}"
    name = f"{where}-{position.epoch:04d}-{position.iteration:07d}" if within else where
    own = secrets.token_hex(8)
    noted = {**about, "position": vars(position), "base": base or own, "written": time.time()}
    writer.save(state, name=name, kind=ITERATION if within else EXPERIENCE, about=noted)
    return own


def holds_checkpoints(folder: Path) -> bool:
    """Whether there is something to go on from, be it damaged.

    :param folder: a folder, which need not be there.
    """
    return any(folder.glob("*.json"))


def remove_checkpoints(folder: Path) -> None:
    """Remove a folder of checkpoints and all that is in it.

    :param folder: the folder, which need not be there.
    :raises InputError: if a file cannot be removed, naming it.
    """
    try:
        for path in folder.glob("*.json"):
            path.unlink()  # first what names the others: what a killed process leaves of it is nothing to go on from
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise InputError(f"cannot remove {error.filename or folder}: {reason(error)}") from error


def noted_in(folder: Path) -> dict[str, Any] | None:
    """What was noted beside the newest checkpoint of an experience's start or end, whole or not; nothing else is read.

    :param folder: a folder, which need not be there.
    :return: JSON values by name; None if nothing can be read.
    """
    try:
        names = state_names(folder, kind=EXPERIENCE)
        return read_manifest(manifest_path(folder, names[-1])).about if names else None
    except InputError:
        return None


def newest(folder: Path) -> SavedTraining | None:
    """The newest checkpoint that is whole; None for an empty folder. Newer ones that are damaged are warned of.

    :param folder: the folder of checkpoints.
    :raises InputError: if there are checkpoints and none can be read.
    """
    if not holds_checkpoints(folder):
        return None
    started = _told(load_state(folder, kind=EXPERIENCE, mapped=True))
    position = _position(folder, started, within=False)
    base = str(started.about.get("base"))
    if not any(folder.glob("*-within-*.json")):
        return SavedTraining(position, started.state, base, started.about)
    try:
        inside = load_state(folder, kind=ITERATION, mapped=True)
    except InputError as error:
        warnings.warn(f"{error}: the training goes on from {position}", VLMWarning, stacklevel=4)
        return SavedTraining(position, started.state, base, started.about)
    if inside.about.get("base") != base:  # of an experience before
        return SavedTraining(position, started.state, base, started.about)
    return SavedTraining(_position(folder, _told(inside), within=True), started.state, base, inside.about, inside.state)


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Within it a training takes what a checkpoint holds. What was made to look whole, and is not, is no error of the
    training's.

    :param folder: the folder of checkpoints.
    :raises InputError: instead of what Python says of a value that is of another kind than it should be.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"the checkpoint in {folder} is damaged, or of another training: {said}") from error


def _told(stored: Stored) -> Stored:
    for remark in stored.remarks:
        warnings.warn(remark, VLMWarning, stacklevel=4)
    return stored


def _position(folder: Path, stored: Stored, *, within: bool) -> Position:
    """Where a checkpoint is from, and whether all is noted beside it that a training goes on with.

    :param within: whether it is of a kind that is written within an experience.
    """
    about = stored.about
    try:
        position = Position(**about["position"])
        counts = [position.experience, position.epoch, position.iteration, *chain(*about["experiences"])]
        told = position.stage in get_args(Stage) and all(type(count) is int and count >= 0 for count in counts)
        told = told and len(about["experiences"]) >= position.experience + (position.stage != "start")
        told = told and all(len(entry) == 2 for entry in about["experiences"])
        told = told and within == (position.stage == "within")
    except (KeyError, TypeError) as error:
        raise InputError(f"the checkpoint {stored.name} in {folder} does not tell where it is from") from error
    kinds = {"settings": dict, "machine": dict, "loader": dict, "conditions": dict, "evaluates": list, "written": float}
    if not told or any(type(about.get(name)) is not kind for name, kind in kinds.items()):
        raise InputError(f"the checkpoint {stored.name} in {folder} does not tell where it is from")
    return position
