"""Everything between two experiences, as one flat mapping: what a training goes on from."""

from __future__ import annotations

import random
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from avalanche_vlm._ranks import found_ranks
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.packing import pack
from avalanche_vlm.memory.state import Json, StateDict, Stateful, part_of, undeclared
from avalanche_vlm.memory.unpacking import unpack
from avalanche_vlm.models import VLM


def training_state(
    model: VLM,
    plugins: Sequence[Any],
    *,
    optimizer: Optimizer | None = None,
    moments: bool = True,
    strict: bool = True,
) -> StateDict:
    """What a training is between two experiences: model, plugins, random generators.

    Entries begin with ``model.``, ``plugins.`` and a number, ``optimizer.`` or ``random.``; ``training``, ``plugins``
    and ``accelerator`` say what trains, which plugins there are, and which tensors were on an accelerator.

    :param model: the model that is trained.
    :param plugins: the plugins of its strategy, in their order; loggers and evaluators have no part in training.
    :param optimizer: the strategy's optimizer, where its moments go on from one experience to the next, as in
        Avalanche's own strategies; :class:`~avalanche_vlm.training.VLMNaive` starts them afresh and needs none.
    :param moments: whether what the optimizer has gathered of gradients is part of it, besides its settings.
    :param strict: refuse plugins that do not declare their state; otherwise they are left out.
    :return: names to tensors (detached, on their device, not copied) and JSON values. Save it before training goes on.
    :raises InputError: if a plugin does not declare its state.
    """
    kept = _stateful(plugins, strict)
    state: StateDict = {f"model.{name}": entry for name, entry in model.state_dict().items()}
    state["training"] = cast("Json", model.training_state())
    state["plugins"] = [type(plugin).__name__ for plugin in kept]
    for i, plugin in enumerate(kept):
        state |= {f"plugins.{i}.{name}": entry for name, entry in plugin.state_dict().items()}
    if optimizer is not None:
        state |= {f"optimizer.{name}": entry for name, entry in _optimizer_state(model, optimizer, moments).items()}
    state |= pack("random", random_states())
    tensors = {name: entry for name, entry in state.items() if isinstance(entry, torch.Tensor)}
    state["accelerator"] = [name for name, tensor in tensors.items() if tensor.device.type != "cpu"]
    return state


def load_training_state(
    model: VLM,
    plugins: Sequence[Any],
    state: Mapping[str, Any],
    *,
    optimizer: Optimizer | None = None,
    strict: bool = True,
) -> None:
    """Go on from a state that :func:`training_state` gave: what is trained next is what would have been trained then.

    A strategy of Avalanche's own starts its optimizer afresh at its first experience unless it is told what the
    optimizer holds: ``strategy.optimized_param_id = dict(model.named_parameters())``, after this call.

    :param model: a model made in the same way as the one whose state it is.
    :param plugins: plugins made in the same way, on this model.
    :param state: what :func:`training_state` gave, perhaps read from files in between.
    :param optimizer: an optimizer over the model's parameters, if the state has one.
    :param strict: refuse plugins that do not declare their state; otherwise they stay as they are.
    :raises InputError: if the state is of other plugins, or does not fit them or the model. After an error neither is
        to be used.
    """
    kept = _stateful(plugins, strict)
    names = [type(plugin).__name__ for plugin in kept]
    if names != state.get("plugins"):
        raise InputError(f"the state is of the plugins {state.get('plugins')}, and these are {names}")
    if missing := {"training", "accelerator", "random"} - state.keys():
        raise InputError(f"the state of a training lacks {min(missing)!r}")
    if not isinstance(state["accelerator"], list):
        raise InputError(f"the state of a training has a damaged 'accelerator': {reprlib.repr(state['accelerator'])}")
    there = set(state["accelerator"])
    state = {name: entry.to(model.device) if name in there else entry for name, entry in state.items()}
    try:
        model.load_state_dict(part_of(state, "model"))
    except RuntimeError as error:
        raise InputError(f"the state does not fit the model: {' '.join(str(error).split())}") from error
    model.load_training_state(state["training"])
    for i, plugin in enumerate(kept):
        plugin.load_state_dict(part_of(state, f"plugins.{i}"))
    if optimizer is not None:
        _load_optimizer_state(model, optimizer, part_of(state, "optimizer"))
    try:
        restore_random_states(unpack("random", None, state, "random generators"))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the state of a training has a damaged 'random': {error}") from error


def random_states() -> dict[str, Any]:
    """Where the global generators of Python, numpy, torch and every CUDA device are, as values that can be packed."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": _cuda_states() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put the global generators where they were.

    :param states: what :func:`random_states` gave. Those of CUDA devices count where there are as many as there were.
    """
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    if torch.cuda.is_available() and found_ranks() is not None and states["cuda"]:
        torch.cuda.set_rng_state(states["cuda"][0].cpu())
    elif torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([entry.cpu() for entry in states["cuda"]])


def _cuda_states() -> list[torch.Tensor]:
    """Of every device; where processes train together, of this one's own, which draws as all of them do."""
    return torch.cuda.get_rng_state_all() if found_ranks() is None else [torch.cuda.get_rng_state()]


def _stateful(plugins: Sequence[Any], strict: bool) -> list[Stateful]:
    kept = []
    for plugin in plugins:
        unknown = undeclared([plugin])
        if not unknown:
            kept.append(plugin)
        elif strict:
            raise InputError(f"what {unknown[0]} keeps while a stream is trained is not declared in its states")
    return kept


def _optimizer_state(model: nn.Module, optimizer: Optimizer, with_moments: bool) -> StateDict:
    """By the names of the model's parameters, for their numbers depend on how the optimizer came to be."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups: list[Any] = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key != "params"}
        # What has left the model gets no gradient any more.
        groups.append({"params": [names[id(p)] for p in group["params"] if id(p) in names], **options})
    gathered = optimizer.state.items() if with_moments else ()
    moments = {names[id(p)]: dict(of) for p, of in gathered if id(p) in names}
    return pack("groups", groups) | pack("moments", moments)


def _load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    if not state:
        raise InputError("the state has no optimizer: give the optimizer to training_state as well")
    parameters = dict(model.named_parameters())
    groups = unpack("groups", None, state, "the optimizer")
    moments = unpack("moments", None, state, "the optimizer")
    if len(groups) != len(optimizer.param_groups):
        raise InputError(f"the state's optimizer has {len(groups)} groups, not {len(optimizer.param_groups)}")
    for name in _names(groups, moments):
        if name not in parameters:
            raise InputError(f"the state's optimizer has {name}, which the model has not")
    for group, found in zip(optimizer.param_groups, groups, strict=True):
        group.update({**found, "params": [parameters[name] for name in found["params"]]})
    optimizer.state.clear()
    for name, of in moments.items():
        optimizer.state[parameters[name]] = of


def _names(groups: list[Any], moments: Mapping[str, Any]) -> Iterator[str]:
    for group in groups:
        yield from group["params"]
    yield from moments
