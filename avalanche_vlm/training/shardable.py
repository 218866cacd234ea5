"""What of a model can be spread over processes, and which trainings cannot do with parts of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin, LRSchedulerPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import nn

from avalanche_vlm._ranks import found_ranks
from avalanche_vlm.compat.sharding import can_shard
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.blocks import tower_blocks

_LOOKS_ON = (EvaluationPlugin, LRSchedulerPlugin, PeriodicEval, Clock)
"""Plugins of Avalanche's that have nothing to do with weights."""

_WHOLE_TENSORS = ("LBFGS", "Muon", "Adafactor", "Shampoo", "SOAP")
"""Optimizers whose step for one number depends on others of its tensor, of which a process has a part."""


def units_to_shard(model: VLM) -> list[nn.Module]:
    """The modules of the towers that become whole one after the other: residual blocks, embeddings of tokens and of
    patches. What else there is in a tower is a hundredth of it, and stays in every process.

    :param model: a model whose towers are whole.
    :raises InputError: if neither tower has blocks.
    """
    blocks = {name: tower_blocks(model.tower(name)) or [] for name in ("image", "text")}
    if not any(blocks.values()):
        raise InputError(f"{model.name} has no blocks of a transformer that could be spread over processes (shard)")
    inside = {id(part) for layers in blocks.values() for layer in layers for part in layer.modules()}
    image = {id(part) for part in model.clip.visual.modules()}
    found: list[nn.Module] = []
    for part in model.clip.modules():  # the text tower of some models is spread over the model itself
        of_tower = blocks["image" if id(part) in image else "text"]
        if of_tower and isinstance(part, nn.Embedding | nn.Conv2d) and id(part) not in inside:
            found.append(part)
    return [*found, *blocks["image"], *blocks["text"]]


def refuse_alone() -> None:
    """Refuse to spread anything where there is but one process.

    :raises InputError: if there is no other.
    """
    if found_ranks() is None:
        raise InputError(
            "shard spreads the towers over several processes, and this one trains alone: start several (torchrun), or "
            "leave it out"
        )


def refuse_unshardable(
    what: str,
    model: VLM,
    plugins: Iterable[Any],
    optimizer: torch.optim.Optimizer | None = None,
    metrics: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Refuse a training with sharded towers that would fail, or compute of parts what it thinks is of the whole.

    :param what: the method, as the subject of a sentence.
    :param model: the model that is trained.
    :param plugins: plugins of the training.
    :param optimizer: its optimizer, where there is one yet.
    :param metrics: metrics that look on.
    :param options: other options of the training, by name.
    :raises InputError: naming the first part, with the reason.
    """
    options = options or {}
    if not can_shard():
        raise InputError(f"torch {torch.__version__} does not shard modules (fully_shard): leave shard out")
    if options.get("compile"):
        raise InputError(
            f"{what} does not go with shard and compile together: torch compiles blocks whose weights are there all "
            "the time"
        )
    for name in ("accumulate", "grad_checkpointing"):
        if options.get(name):
            raise InputError(
                f"{what} does not go with shard and {name} together: towers in parts run once, forward and back"
            )
    if options.get("fp16"):
        raise InputError(
            f"{what} does not go with shard and fp16 together: whether a step is taken is decided by gradients, of "
            "which each process has a part; take bf16"
        )
    for plugin in plugins:
        if not (isinstance(plugin, _LOOKS_ON) or getattr(plugin, "supports_sharding", False)):
            raise InputError(
                f"{what} does not go with shard: {type(plugin).__name__} does not say that it leaves the towers' "
                "weights alone (supports_sharding), of which it would find a part"
            )
    for metric in metrics:
        if getattr(metric, "reads_weights", False):
            raise InputError(f"{what} does not go with shard: {metric} reads weights, of which it would find a part")
    if optimizer is not None and type(optimizer).__name__ in _WHOLE_TENSORS:
        raise InputError(
            f"{what} does not go with shard: {type(optimizer).__name__} looks at a whole tensor for each of its numbers"
        )
    units_to_shard(model)
