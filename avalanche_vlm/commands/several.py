"""A run in several processes that a launcher has started: the first one is the command, the others train along."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from avalanche_vlm._processors import launched
from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.durable import Command
from avalanche_vlm.commands.requests import RunRequest
from avalanche_vlm.errors import InputError, ProcessLost, VLMWarning


@contextlib.contextmanager
def in_company(request: RunRequest, command: Command) -> Iterator[bool]:
    """Within a block the processes of a launcher belong together, if there are several.

    :param request: what was asked for, of all of them alike.
    :param command: the command, of which the first process says when its training begins.
    :return: whether this one is not the first.
    """
    if launched() == 1:
        if request.shard:
            raise InputError("--shard spreads the towers over several processes: start them with torchrun")
        yield False
        return
    from avalanche_vlm._ranks import part_company
    from avalanche_vlm.training.distributed import start

    ranks = start(prepare.device_of(request.device))
    assert ranks is not None
    if not ranks.first:
        yield True
        part_company()
        return
    begun = False

    def begins() -> None:
        nonlocal begun
        begun = True
        ranks.from_first(True)

    command.begins = begins
    try:
        yield False
    finally:
        if not begun:
            with contextlib.suppress(ProcessLost):
                ranks.from_first(False)
    part_company()


def follow(request: RunRequest) -> int:
    """Train what the first process trains, as soon as it begins, and write nothing.

    :param request: what was asked for.
    :return: exit code of the process, 0.
    """
    from avalanche_vlm._ranks import Ranks
    from avalanche_vlm.studies.experiment import run_experiment
    from avalanche_vlm.training.checkpoint import CheckpointPlugin

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VLMWarning)  # the first process warns
        asked = prepare.experiment(request, request.recipe, request.seed)
        model, benchmark = prepare.opened(asked, shard=request.shard)
        if not Ranks().from_first(None):
            return 0
        run_experiment(
            benchmark,
            asked.recipe,
            model=model,
            settings=asked.train,
            options=asked.recipe_options,
            seed=asked.seed,
            device=asked.device,
            shard=request.shard,
            checkpoint=CheckpointPlugin(request.out / store.CHECKPOINTS, request.checkpoint_minutes, strict=False),
        )
    return 0
