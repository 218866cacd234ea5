"""Going on with a training where it was killed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from avalanche_vlm._ranks import found_ranks
from avalanche_vlm.errors import InputError, VLMWarning
from avalanche_vlm.training.checkpoint.conditions import differences, machine_conditions, training_conditions
from avalanche_vlm.training.checkpoint.folder import newest
from avalanche_vlm.training.checkpoint.plugin import CheckpointPlugin


def resume(strategy: Any, folder: str | Path, *, exact: bool = False) -> int:
    """Have a strategy go on from the newest checkpoint of its folder: at the very iteration after which it was written.

    Give ``train`` the experiences from the returned number on, ``stream[resume(strategy, folder):]``, as a training
    that was never interrupted gets them. The first of them is one of these:

    - one of which nothing was trained;
    - one in the middle of which the training was killed: it goes on there;
    - one that is trained, while what the script does after it may be lost: ``train`` takes what it ended with, at once.

    Models, plugins and strategies are made in the same way as those of the killed training, and nothing was trained
    with them.

    :param strategy: a strategy with a :class:`~avalanche_vlm.training.checkpoint.CheckpointPlugin` among its plugins.
    :param folder: the folder of that plugin.
    :param exact: whether other versions or another kind of machine (threads, CPU, device) are refused. Otherwise they
        are named in a warning, and the last digits of what is trained will differ from a training that was never
        interrupted.
    :return: number of the experience to go on with, 0 for an empty folder.
    :raises InputError: if the checkpoints are of another training (plugins, model, size of batches, ...) or damaged, in
        one sentence that names the difference.
    """
    plugin = _plugin_of(strategy, Path(folder))
    recorder = plugin.attach(strategy)
    checkpoint = newest(plugin.folder)
    _read_by_all(plugin.folder, None if checkpoint is None else str(checkpoint.position))
    if checkpoint is None:
        return 0
    where = f"the checkpoint in {plugin.folder}"
    if differing := differences(checkpoint.about.get("conditions", {}), plugin.conditions, most=1):
        raise InputError(f"{where} is of another training: {differing}")
    if differing := differences(checkpoint.about["settings"], training_conditions(strategy)):
        raise InputError(f"{where} is of another training: {differing}")
    if differing := differences(checkpoint.about["machine"], machine_conditions(strategy)):
        if exact:
            raise InputError(f"{where} was written under other conditions: {differing}")
        warnings.warn(
            f"{where} was written under other conditions: {differing}; the training goes on, and will not end with the "
            "same last digits",
            VLMWarning,
            stacklevel=2,
        )
    try:
        recorder.lead_back(checkpoint)
    except InputError as error:
        raise InputError(f"{where} is of another training: {error}") from error
    plugin.resumed, plugin.about = checkpoint.position, checkpoint.about
    return checkpoint.position.experience


def _read_by_all(folder: Path, found: str | None) -> None:
    """See that processes that train together have read the same, before the first of them writes the next one."""
    if (ranks := found_ranks()) is None:
        return
    for rank, other in enumerate(told := ranks.told(found)):
        if other != told[0]:
            raise InputError(
                f"process 0 finds {told[0] or 'no checkpoint'} in {folder}, and process {rank} {other or 'none'}: it "
                "has to be a folder that all of them see, on every machine"
            )


def _plugin_of(strategy: Any, folder: Path) -> CheckpointPlugin:
    found = [plugin for plugin in strategy.plugins if isinstance(plugin, CheckpointPlugin)]
    if len(found) != 1:
        raise InputError(
            f"a strategy that is resumed has one CheckpointPlugin among its plugins, and this one has {len(found)}"
        )
    if found[0].folder.resolve() != folder.resolve():
        raise InputError(f"the strategy's CheckpointPlugin writes to {found[0].folder}, not to {folder}")
    return found[0]
