"""What all plugins share: a typed strategy, declared state, and what several of them ask of both."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.templates.strategy_mixin_protocol import SupervisedStrategyProtocol

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import PairDataset
from avalanche_vlm.compat import source_datasets
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import Stateful
from avalanche_vlm.models import VLM

Strategy: TypeAlias = SupervisedStrategyProtocol[Any, Any, Any]
"""Any of Avalanche's supervised strategies."""


class VLMPlugin(SupervisedPlugin[Any], Stateful, supports_distributed=False):
    """Base of our plugins.

    Avalanche asks every subclass anew whether it supports distributed training: say so in the class statement, as in
    ``class P(VLMPlugin, supports_distributed=True)``.

    Avalanche calls :meth:`before_train_dataset_adaptation` before it rebuilds the optimizer: it is the place where
    parameters of a new task are added, so that the optimizer gets them.
    """


def model_of(strategy: Any) -> VLM:
    """The strategy's model.

    :raises InputError: if it is no VLM.
    """
    model = strategy.model
    if not isinstance(model, VLM):
        raise InputError(
            f"this plugin works on a VLM, and the strategy trains a {type(model).__name__}: make one with create_vlm"
        )
    return model


def is_pair_stream(strategy: Any) -> bool:
    """Whether the experience at hand has image-text pairs instead of classes.

    Decodes no image where the data set tells.

    :param strategy: while an experience is trained or evaluated.
    """
    dataset = strategy.experience.dataset
    if any(isinstance(source, PairDataset) for source in source_datasets(dataset)):
        return True
    if getattr(strategy.experience, "label_space", None) is not None:
        return False
    return isinstance(dataset.eval()[0][0], ImageText)


def refuse_pairs(strategy: Any, what: str) -> None:
    """Stop where a method for classes meets a stream of pairs.

    :param strategy: while an experience is trained.
    :param what: what needs classes, for the error.
    :raises InputError: if the experience has image-text pairs.
    """
    if is_pair_stream(strategy):
        raise InputError(f"{what} needs a class-labelled stream; this one has image-text pairs")


def add_as_one_batch(strategy: Any, loss: torch.Tensor, samples: int) -> None:
    """Add a mean loss over further samples as if they and the minibatch were one batch.

    The task loss is computed afresh, since ``strategy.loss`` may hold what other plugins added: their weights stay
    theirs.

    :param strategy: after its forward pass, before its backward pass.
    :param loss: mean over the further samples, a scalar.
    :param samples: how many these are.
    """
    add_with_share(strategy, loss, samples / (len(strategy.mb_y) + samples))


def add_with_share(strategy: Any, loss: torch.Tensor, share: float) -> None:
    """Let a loss take a share of the task loss's weight: ``(1 - share) task + share loss``, beside what others added.

    :param strategy: after its forward pass, before its backward pass.
    :param loss: a scalar.
    :param share: of the loss that is added, in [0, 1].
    """
    strategy.loss = strategy.loss + share * (loss - strategy.criterion())
