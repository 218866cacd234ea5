"""What a checkpoint has of a strategy: everything that changes while a stream is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval

from avalanche_vlm.compat.strategies import STRATEGY_ATTRIBUTES, criterion_of, set_stops_training, stops_training
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.packing import HasState, StateDict, has_state, is_function, pack, part_of
from avalanche_vlm.memory.state import undeclared
from avalanche_vlm.memory.unpacking import unpack
from avalanche_vlm.models import VLM
from avalanche_vlm.training.checkpoint.metrics import evaluator_state, load_evaluator_state, unknown_metrics
from avalanche_vlm.training.state import load_training_state, random_states, restore_random_states, training_state
from avalanche_vlm.training.strategies import VLMMixin


class OfCheckpoints:
    """Base of plugins that write checkpoints, and are no part of them."""


def trained_plugins(strategy: Any) -> list[Any]:
    """The plugins whose state a checkpoint has: the user's, without what Avalanche adds to every strategy.

    :param strategy: a strategy of Avalanche's.
    """
    others = (OfCheckpoints, PeriodicEval, Clock)
    return [p for p in strategy.plugins if not isinstance(p, others) and p is not strategy.evaluator]


def unknown_parts(strategy: Any) -> list[str]:
    """Everything of which nobody knows what it keeps, so that no checkpoint has it, in words.

    :param strategy: a strategy of Avalanche's, before it trains.
    """
    found = [f"the plugin {name}" for name in undeclared(trained_plugins(strategy))]
    found += [f"the metric {name}" for name in unknown_metrics(strategy.evaluator)]
    _, odd = _own_attributes(strategy)
    return found + [f"{type(strategy).__name__}.{name}" for name in odd]


def strategy_state(strategy: Any, also: Mapping[str, HasState], *, within: bool, strict: bool) -> StateDict:
    """A strategy between two iterations or experiences.

    :param strategy: a strategy of Avalanche's that trains a VLM.
    :param also: further objects with a state, by name.
    :param within: whether an experience is being trained; otherwise what an optimizer has gathered is left out where
        the strategy starts it afresh.
    :param strict: refuse plugins that do not declare their state; otherwise they are left out.
    :return: names to tensors (detached, on their device, not copied) and JSON values. Save it before training goes on.
    :raises InputError: if something in it cannot be kept.
    """
    if isinstance(strategy, VLMMixin):
        strategy.losses.settle()
    moments = within or not isinstance(strategy, VLMMixin) or strategy.keep_optimizer_state
    state = training_state(
        vlm_of(strategy), trained_plugins(strategy), optimizer=strategy.optimizer, moments=moments, strict=strict
    )
    optimized = strategy.optimized_param_id
    state |= pack("clock", {name: count for name, count in vars(strategy.clock).items() if type(count) is int})
    state |= pack("optimized", None if optimized is None else list(optimized))
    if isinstance(strategy, VLMMixin) and (scaling := strategy.precision.state_dict()):
        state |= pack("scaling", scaling)
    state |= pack("stops", stops_training(strategy))
    state |= pack("prompts", vlm_of(strategy).text_head.at_hand(vlm_of(strategy)))
    state |= {f"evaluator.{name}": entry for name, entry in evaluator_state(strategy.evaluator).items()}
    own, odd = _own_attributes(strategy)
    if odd and strict:  # it came while the strategy trained
        raise InputError(f"what {type(strategy).__name__}.{odd[0]} keeps cannot be part of a checkpoint")
    for name, value in own.items():
        state |= pack(f"own.{name}", value)
    criterion = criterion_of(strategy)
    if has_state(criterion) and criterion not in strategy.plugins:
        state |= pack("criterion", criterion)
    for name, part in also.items():
        state |= pack(f"also.{name}", part)
    elsewhere = [n for n, entry in state.items() if isinstance(entry, torch.Tensor) and entry.device.type != "cpu"]
    return state | pack("also", sorted(also)) | pack("accelerator", elsewhere)


def load_strategy_state(strategy: Any, state: Mapping[str, Any], also: Mapping[str, HasState], *, strict: bool) -> None:
    """Go on from what :func:`strategy_state` gave.

    :param strategy: a strategy that was made in the same way.
    :param state: entries by name, as that function gave them.
    :param also: further objects with a state, by the names that they had.
    :param strict: refuse plugins that do not declare their state; otherwise they stay as they are.
    :raises InputError: if the state is of another training. After an error nothing of it is to be used.
    """
    if state.get("also") != sorted(also):
        raise InputError(
            f"the checkpoint has {_listed(state.get('also'))} beside the strategy, and CheckpointPlugin(also=...) "
            f"{_listed(sorted(also))}"
        )
    model = vlm_of(strategy)
    load_training_state(model, trained_plugins(strategy), state, optimizer=strategy.optimizer, strict=strict)
    generators = random_states()
    taken = ("model.", "plugins.", "optimizer.")
    there = {name for name in state["accelerator"] if not name.startswith(taken)}
    state = {name: entry.to(model.device) if name in there else entry for name, entry in state.items()}
    owner = type(strategy).__name__
    vars(strategy.clock).update(unpack("clock", None, state, owner))
    optimized = unpack("optimized", None, state, owner)
    parameters = dict(model.named_parameters())
    strategy.optimized_param_id = (
        None if optimized is None else {n: parameters[n] for n in optimized if n in parameters}
    )
    set_stops_training(strategy, unpack("stops", False, state, owner))
    if isinstance(strategy, VLMMixin) and strategy.precision.state_dict():
        strategy.precision.load_state_dict(unpack("scaling", {}, state, owner))
    if encoded := unpack("prompts", None, state, owner) if "prompts" in state else None:
        model.text_head.take(model, *encoded)
    load_evaluator_state(strategy.evaluator, part_of(state, "evaluator"))
    own, _ = _own_attributes(strategy)
    for name, value in own.items():
        setattr(strategy, name, unpack(f"own.{name}", value, state, owner))
    criterion = criterion_of(strategy)
    if has_state(criterion) and criterion not in strategy.plugins:
        unpack("criterion", criterion, state, owner)
    for name, part in also.items():
        unpack(f"also.{name}", part, state, owner)
    restore_random_states(generators)


def vlm_of(strategy: Any) -> VLM:
    """The model of a strategy whose training can be resumed.

    :param strategy: a strategy of Avalanche's.
    :raises InputError: if it trains no VLM.
    """
    if not isinstance(strategy.model, VLM):
        raise InputError(
            f"checkpoints are of trainings of a VLM, and the strategy trains a {type(strategy.model).__name__}: make "
            "one with create_vlm"
        )
    return strategy.model


def _own_attributes(strategy: Any) -> tuple[dict[str, Any], list[str]]:
    """What a strategy has besides what all of Avalanche's have, and the names of what no file can hold.

    None says nothing of what will come in its place.
    """
    settings = {"losses", "precision", "amp", "max_grad_norm", "keep_optimizer_state", "negatives", "iterations"}
    settings |= {"accumulate", "grad_checkpointing", "compile", "shard", "shards"}
    own, odd = {}, []
    for name, value in vars(strategy).items():
        if name in STRATEGY_ATTRIBUTES or (isinstance(strategy, VLMMixin) and name in settings) or is_function(value):
            continue
        try:
            if value is None:
                raise TypeError
            pack(name, value)
        except TypeError:
            odd.append(name)
        else:
            own[name] = value
    return own, odd


def _listed(names: Sequence[str] | None) -> str:
    return ", ".join(names) if names else "nothing"
