"""Runs that are written to disk while they last."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from avalanche_vlm.errors import VLMWarning
from avalanche_vlm.evaluation.comparable import deciding
from avalanche_vlm.studies.account import RunAccount
from avalanche_vlm.training import VLMNaive
from avalanche_vlm.training.checkpoint import CheckpointPlugin
from avalanche_vlm.training.checkpoint.contents import unknown_parts


def made_durable(
    checkpoint: CheckpointPlugin, strategy: VLMNaive, account: RunAccount, protocol: Mapping[str, Any]
) -> CheckpointPlugin | None:
    """Have checkpoints know which run they are of.

    What decides the run's figures is noted in them, so that no other run goes on from them, and so are the seconds that
    it has taken; the seconds that it takes to write them are not counted as training. Logs are written first.

    :param checkpoint: the plugin that writes them, one of the strategy's.
    :param strategy: the strategy, before it trains.
    :param account: the run's account.
    :param protocol: the run's protocol.
    :return: the plugin; None for a run that no checkpoint could have, if the plugin is not strict: it is then taken out
        of the strategy, with a warning.
    """
    if not checkpoint.strict and (unknown := unknown_parts(strategy)):
        strategy.plugins.remove(checkpoint)
        warnings.warn(
            "no checkpoints are written, and the run starts over if it is interrupted: nobody knows what "
            f"{', '.join(unknown)} keeps",
            VLMWarning,
            stacklevel=3,
        )
        return None
    checkpoint.conditions = json.loads(json.dumps(deciding(protocol)))
    checkpoint.noted = lambda: {"seconds": account.whole.seconds()}

    @contextmanager
    def writing() -> Iterator[None]:
        with account.training.paused():
            for logger in strategy.evaluator.loggers:  # what is logged again goes by what a log has
                getattr(logger, "flush", lambda: None)()
            yield

    checkpoint.writing = writing
    return checkpoint
