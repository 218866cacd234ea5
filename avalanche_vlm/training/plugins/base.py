"""What all plugins share: typed hooks, declared state, and how a loss joins the task loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import nn

from avalanche_vlm._allocations import within_memory
from avalanche_vlm._ranks import found_ranks, together
from avalanche_vlm.benchmarks.label_space import TrainClasses
from avalanche_vlm.compat.strategies import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import IN_MODEL, Stateful
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import Site
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.sharding import whole_weights


class VLMPlugin(SupervisedPlugin[Any], Stateful):
    """Base of our plugins.

    A subclass lists in :attr:`~avalanche_vlm.memory.state.Stateful.states` what changes while a stream is trained.

    Avalanche asks every subclass anew whether it supports distributed training: say so in the class statement, as in
    ``class P(VLMPlugin, supports_distributed=True)``; in the class body it is overwritten. It does if whatever it
    computes follows from batches, features and random draws, which are the same in every process; gradients that it
    takes by itself are of the process's share, and are averaged first (:mod:`~avalanche_vlm.training.distributed`).
    In the same way ``supports_sharding=True`` says that it goes with towers of which each process has a part: it
    neither reads nor writes their weights and gradients, copies no model, and freezes and thaws no tower but where they
    are whole, in :meth:`prepare_parameters` and within :func:`~avalanche_vlm.training.sharding.whole_weights`; and it
    runs the towers as often in every process.
    """

    least_samples: int = 1
    """Fewest training samples that every experience must have. What needs more says so here, so that it is known before
    anything is trained."""

    train_classes: TrainClasses | None = None
    """The classes that have to compete in training: ``"seen"``, all that were met so far, or ``"current"``, those of
    the batch's own tasks alone; None where the method goes with both. Set as an experience starts."""

    needs_all_classes: bool = False
    """Whether the method reads, in a step, logits or texts of all classes that compete, so that none may stand for
    others (``negatives`` of :class:`~avalanche_vlm.training.strategies.VLMMixin`)."""

    cannot: ClassVar[Mapping[str, str]] = {}
    """Options of a training that the method does not go with (``accumulate``, ``grad_checkpointing``, ``fp16``,
    ``compile``), each
    with the reason, a clause."""

    supports_sharding: ClassVar[bool] = False
    """Whether the method goes with sharded towers: a keyword of the class statement, which no subclass inherits."""

    def __init_subclass__(
        cls, supports_distributed: bool = False, supports_sharding: bool = False, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.supports_distributed, cls.supports_sharding = supports_distributed, supports_sharding

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        """The first callback of an experience: has the classes compete that the method needs, and calls
        :meth:`prepare_parameters`.

        :raises InputError: if the experience has fewer samples than the method needs, if another plugin needs other
            classes to compete, if what the method has put into a model is not in the one that is trained, if there is
            no memory for what is added, or in several processes without
            :class:`~avalanche_vlm.training.strategies.VLMMixin`.
        """
        experience = strategy.experience
        refuse_other_model(self, strategy.model)
        if found_ranks() is not None and together() is None:
            raise InputError(
                f"several processes train with a {type(strategy).__name__}, which averages no gradients: make it a "
                "class with VLMMixin before it, or use VLMNaive"
            )
        if (there := len(experience.dataset)) < self.least_samples:
            raise InputError(too_few(self.least_samples, f"experience {experience.current_experience}", there))
        if (needed := classes_needed(strategy.plugins)) is not None:
            model_of(strategy).competing.in_training = needed
        prepares = type(self).prepare_parameters is not VLMPlugin.prepare_parameters
        with (
            within_memory(f"what {type(self).__name__} adds for experience {experience.current_experience}"),
            whole_weights(strategy) if prepares else nullcontext(),
        ):
            self.prepare_parameters(strategy)

    def after_training_epoch(self, strategy: Strategy, **kwargs: Any) -> None:
        """Refuse an epoch without a batch: Avalanche's strategies train nothing then, and say nothing.

        :raises InputError: if ``drop_last`` has left out the only batch.
        """
        if strategy.clock.train_epoch_iterations == 0:
            raise InputError(no_full_batch(strategy))

    def prepare_parameters(self, strategy: Strategy) -> None:
        """Add, thaw or freeze parameters for the experience that starts.

        Avalanche rebuilds the optimizer after this and before any other callback of the experience, so what trains by
        then is what gets optimized. The towers are whole meanwhile, if each process has but a part of them otherwise.

        :param strategy: the strategy; its experience is at hand, its model not yet adapted.
        """


def refuse_other_model(plugin: VLMPlugin, model: nn.Module) -> None:
    """Refuse a plugin whose modules stand in another model than the one that is trained: the model would train without
    the method, and the method would change a model that nobody asks.

    :param plugin: the plugin, which declares what it has in the model as :data:`~avalanche_vlm.memory.state.IN_MODEL`.
    :param model: the model that is trained.
    :raises InputError: if a module of the plugin's is not in the model.
    """
    inside = {id(module) for module in model.modules()}
    for name, how in plugin.declared().items():
        if how is IN_MODEL and any(id(module) not in inside for module in _modules_in(getattr(plugin, name))):
            raise InputError(
                f"{type(plugin).__name__} was made for another model than the one that is trained: build the recipe "
                "with the very model that the strategy gets, not with one that it is a copy of"
            )


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """The modules that an attribute holds."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, ModulePool):
        yield from value.sites.values()
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _modules_in(entry)


def classes_needed(plugins: Iterable[Any]) -> TrainClasses | None:
    """The classes that have to compete in training for all methods of a training.

    :param plugins: plugins of a strategy; only those of our base can need any.
    :return: what one of them needs, None if they go with both.
    :raises InputError: if one needs other classes than another.
    """
    wanting = {p.train_classes: type(p).__name__ for p in plugins if isinstance(p, VLMPlugin)}
    wanting.pop(None, None)
    if len(wanting) > 1:
        raise InputError(
            f"{wanting['seen']} needs all classes met so far in training, and {wanting['current']} those of the "
            "batch's own tasks alone: one training cannot have both"
        )
    return next(iter(wanting), None)


def refuse_some_classes(strategy: Strategy) -> None:
    """Refuse a training in which some classes stand for others where a method or a loss needs all of them.

    :param strategy: the strategy, which draws negatives.
    :raises InputError: naming what needs all classes.
    """
    needing = [type(p).__name__ for p in strategy.plugins if isinstance(p, VLMPlugin) and p.needs_all_classes]
    if getattr(getattr(strategy.model, "class_head", None), "trains", False):
        needing.append(f"the class head {type(strategy.model.class_head).__name__}")
    if getattr(criterion_of(strategy), "label_smoothing", 0):
        needing.append("label smoothing")
    if needing:
        raise InputError(
            f"{needing[0]} needs all classes that compete in a step, and negatives lets some stand for the others: "
            "leave negatives out"
        )


def refuse_options(what: str, model: Any, plugins: Iterable[Any], options: Mapping[str, Any]) -> None:
    """Refuse options of a training that a method does not go with.

    :param what: the method, as the subject of a sentence.
    :param model: the model that is trained, whose places for modules have a say as well.
    :param plugins: plugins of the training.
    :param options: values by the names of the options; what is None, False or 1 is not asked for.
    :raises InputError: for the first one, with the reason.
    """
    parts = [*plugins, *(part for part in model.modules() if isinstance(part, Site))]
    for name, value in options.items():
        for part in parts if value is True or (value or 0) > 1 else ():
            if (reason := getattr(part, "cannot", {}).get(name)) is not None:
                raise InputError(f"{what} does not go with {name}: {reason}")


def too_few(least: int, where: str, there: int) -> str:
    """The sentence on an experience that is too small for a method.

    :param least: fewest training samples that the method needs.
    :param where: name of the experience, as the subject of a sentence.
    :param there: number of its training samples.

    >>> too_few(10, "task cats", 4)
    'task cats has 4 training samples, and the method needs at least 10 of every task'
    """
    samples = "sample" if there == 1 else "samples"
    return f"{where} has {there} training {samples}, and the method needs at least {least} of every task"


def no_full_batch(strategy: Strategy) -> str:
    """The sentence on an experience of which ``drop_last`` leaves nothing.

    :param strategy: the strategy, in the middle of the experience.
    """
    there = len(strategy.adapted_dataset)
    return (
        f"experience {strategy.experience.current_experience} has {there} training samples, fewer than a batch of "
        f"{strategy.train_mb_size}, and drop_last leaves out batches that are not full: nothing would be trained, "
        f"so lower train_mb_size to {there} or leave drop_last out"
    )


def add_as_one_batch(strategy: Strategy, loss: torch.Tensor, samples: int) -> None:
    """Add a mean loss over further samples as if they and the minibatch were one batch.

    :param strategy: the strategy, after its forward pass and before its backward pass.
    :param loss: mean over the further samples, a scalar.
    :param samples: number of the further samples, 0 or more.
    """
    add_with_share(strategy, loss, samples / (len(strategy.mb_y) + samples))


def add_with_share(strategy: Strategy, loss: torch.Tensor, share: float) -> None:
    """Let a loss take a share of the task loss's weight: ``(1 - share) task + share loss``, beside what others added.

    The task loss is computed afresh, since ``strategy.loss`` may hold what other plugins added: their weights stay
    theirs.

    :param strategy: the strategy, after its forward pass and before its backward pass.
    :param loss: the loss to add, a scalar.
    :param share: its share of the weight, in [0, 1].
    """
    strategy.loss = strategy.loss + share * (loss - strategy.criterion())
