"""What plugins, teachers and references ask of the strategy that they work in."""

from __future__ import annotations

from typing import Any, Protocol

from avalanche.training.templates.strategy_mixin_protocol import SupervisedStrategyProtocol

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import PairDataset
from avalanche_vlm.compat.data_sets import source_datasets
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM


class Strategy(SupervisedStrategyProtocol[Any, Any, Any], Protocol):
    """Any of Avalanche's supervised strategies.

    Avalanche's protocol lacks two attributes that all its supervised templates have, and says None or a tensor where
    there is none inside a callback: an experience is at hand, and the minibatch may hold image-text pairs.
    """

    experience: Any
    """The experience that is being trained or evaluated."""
    mbatch: Any
    """The minibatch, a list ``[x, y, task_label]`` that plugins may change."""
    mb_x: Any
    """Images ``[B, 3, H, W]``, or :class:`~avalanche_vlm.benchmarks.ImageText` of B pairs."""
    dataloader: Any
    """Minibatches of the experience; has a length."""
    adapted_dataset: Any
    """What the data loader is made over."""
    train_epochs: int
    """Epochs per experience."""


def iterations_of(strategy: Strategy) -> int:
    """Iterations that the experience at hand has: all of its epochs, or as many as the strategy stops after.

    :param strategy: a strategy whose loader has a length.
    """
    whole = len(strategy.dataloader) * strategy.train_epochs
    most = getattr(strategy, "iterations", None)
    return whole if most is None else min(whole, most)


def model_of(strategy: Strategy) -> VLM:
    """The strategy's model.

    :param strategy: strategy whose model is asked for.
    :return: the model itself.
    :raises InputError: if it is no VLM.
    """
    if not isinstance(strategy.model, VLM):
        raise InputError(
            f"this plugin works on a VLM, and the strategy trains a {type(strategy.model).__name__}: make one with "
            "create_vlm"
        )
    return strategy.model


def is_pair_stream(strategy: Strategy) -> bool:
    """Whether the experience at hand has image-text pairs instead of classes.

    Decodes no image where the data set tells.

    :param strategy: the strategy, while an experience is trained or evaluated.
    """
    dataset = strategy.experience.dataset
    if any(isinstance(source, PairDataset) for source in source_datasets(dataset)):
        return True
    if getattr(strategy.experience, "label_space", None) is not None:
        return False
    return isinstance(dataset.eval()[0][0], ImageText)


def refuse_pairs(strategy: Strategy, what: str) -> None:
    """Stop where a method for classes meets a stream of pairs.

    :param strategy: the strategy, while an experience is trained.
    :param what: what needs classes, as the subject of the error's sentence.
    :raises InputError: if the experience has image-text pairs.
    """
    if is_pair_stream(strategy):
        raise InputError(f"{what} needs a class-labelled stream; this one has image-text pairs")
