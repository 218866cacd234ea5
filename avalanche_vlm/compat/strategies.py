"""What has no public name in Avalanche's strategies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader


def criterion_of(strategy: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss function of an Avalanche strategy, to be called on other outputs than those of the minibatch.

    ``strategy.criterion()`` is its loss on the minibatch; the function itself has no public name.

    :param strategy: any of Avalanche's, or one of ours.
    """
    return strategy._criterion


STRATEGY_ATTRIBUTES = frozenset(
    (
        *("model", "device", "plugins", "experience", "is_training", "current_eval_stream", "_distributed_check"),
        *("_eval_streams", "optimizer", "_criterion", "train_epochs", "train_mb_size", "eval_mb_size", "retain_graph"),
        *("evaluator", "eval_every", "clock", "adapted_dataset", "dataloader", "mbatch", "mb_output", "loss"),
        *("_stop_training", "optimized_param_id"),
    )
)
"""What every supervised strategy of Avalanche's has. One that has more keeps more, which a checkpoint has to know."""


def stops_training(strategy: Any) -> bool:
    """Whether someone has called ``strategy.stop_training()`` and the strategy has not stopped yet.

    Avalanche has a public way to ask for it, and none to see it or to take it back.

    :param strategy: any of Avalanche's.
    """
    return bool(strategy._stop_training)


def set_stops_training(strategy: Any, stops: bool) -> None:
    """Have a strategy stop at its next minibatch or epoch, or go on.

    :param strategy: any of Avalanche's.
    :param stops: whether it stops.
    """
    strategy._stop_training = stops


def evaluated_within(strategy: Any) -> list[list[Any]]:
    """The experiences on which a strategy evaluates by itself while it trains: stream and number of each.

    ``train`` takes them from its arguments and keeps them under a private name.

    :param strategy: any of Avalanche's, within ``train``.
    """
    streams = strategy._eval_streams or []
    return [[experience.origin_stream.name, experience.current_experience] for of in streams for experience in of]


def loader_of_epoch(loader: Any) -> DataLoader:
    """The torch loader that one of Avalanche's loaders makes for every epoch and walks through.

    Avalanche gives no way to start an epoch at another batch than the first; torch's loader has its samplers in public.

    :param loader: one of Avalanche's own, a ``MultiDatasetDataLoader``.
    """
    return loader._get_loader()


class UnpacksContainers:
    """Mixin for Avalanche's strategies: minibatches may hold containers that move themselves.

    Avalanche's master accepts only tensors and dicts when it moves a minibatch, and its hook for that has no public
    name. Put it before the strategy's class.
    """

    mbatch: Any
    on_device: Callable[[Any], Any]

    def _unpack_minibatch(self) -> None:
        self.mbatch = [self.on_device(part) for part in self.mbatch]
