"""Avalanche's Naive with a plugin that records what training does."""

from __future__ import annotations

import warnings

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive


def naive(
    model,
    plugins,
    lr=1e-3,
    epochs=1,
    optimizer=torch.optim.AdamW,
    strategy=Naive,
    criterion=None,
    settings=None,
    **options,
) -> Naive:
    """Avalanche's Naive or another strategy, with settings of its own; other options are the optimizer's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EvaluationPlugin(loggers=[])
    return strategy(
        model=model,
        optimizer=optimizer(model.parameters(), lr=lr, **options),
        criterion=criterion or torch.nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=plugins,
        evaluator=evaluator,
        **(settings or {}),
    )


class Recorder(SupervisedPlugin):
    """Keeps what a function of the strategy gives at a callback."""

    def __init__(self, callback: str, function) -> None:
        super().__init__()
        self.values: list = []
        setattr(self, callback, lambda strategy, **kwargs: self.values.append(function(strategy)))
