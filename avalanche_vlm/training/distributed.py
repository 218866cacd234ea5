"""Training in several processes, of which the recipes know nothing.

Every process runs the same program: the same batches in the same order, the same random numbers, the same plugins,
losses and metrics. Only what costs is shared out: each process sends its rows of a batch through the towers, and the
features of all rows are gathered, with gradients (:mod:`~avalanche_vlm._rows`). What is computed of features (losses on
the whole batch, memories, heads, routers, metrics) is therefore what one process computes, and needs no reduction;
gradients are averaged before anyone reads them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.distributed import DistributedHelper
from torch import nn

from avalanche_vlm._processors import launched
from avalanche_vlm._ranks import Ranks, found_ranks, join, together, training_together
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.shardable import refuse_alone, refuse_unshardable
from avalanche_vlm.training.sharding import in_shards, refuse_in_parts
from avalanche_vlm.training.state import random_states, restore_random_states

__all__ = ["in_ranks", "start"]

_NORMALISING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_DRAWING = ("Dropout", "Dropout1d", "Dropout2d", "AlphaDropout", "DropPath", "StochasticDepth", "PatchDropout")


def start(device: str | torch.device = "cpu", *, patience: float = 1800.0) -> Ranks | None:
    """Join the processes that ``torchrun`` has started: two lines at the top of a script, and every strategy with
    :class:`~avalanche_vlm.training.VLMMixin` trains in all of them.

    The processes talk by nccl on CUDA, each on a device of its own, and by gloo elsewhere.

    :param device: where the model trains; ``"cuda"`` becomes this process's own device, which torch's current one is
        from now on.
    :param patience: seconds to wait for a process that does not answer.
    :return: the processes; None where there is but this one.
    :raises InputError: if there are more processes than devices on a machine, or for no patience at all.
    """
    if launched() == 1:
        return None
    if not patience > 0:
        raise InputError(f"a process is waited for more than 0 seconds, not {patience}")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_cuda = torch.device(device).type == "cuda"
    if torch.device(device).index not in (None, local):
        raise InputError(
            f"process {local} of this machine trains on device {local}, not on {device}: where several are started the "
            "device is cuda, of which each takes its own"
        )
    if on_cuda:
        if local >= torch.cuda.device_count():
            raise InputError(
                f"process {local} of this machine has no CUDA device: there are {torch.cuda.device_count()}, so start "
                "no more processes a machine than that"
            )
        torch.cuda.set_device(local)
    return join("nccl" if on_cuda else "gloo", patience)


@contextmanager
def in_ranks(strategy: Any, trains: bool) -> Iterator[None]:
    """Within a block a strategy trains or evaluates together with the other processes, if there are any.

    :param strategy: the strategy; the processes have made theirs in the same way.
    :param trains: whether it trains.
    :raises InputError: if something of it cannot work in several processes, with the reason, or if the processes have
        different models.
    """
    ranks = found_ranks() if together() is None else None
    if ranks is None:
        if together() is None and getattr(strategy, "shard", False):
            refuse_alone()
        yield
        return
    refuse_in_parts(strategy)
    refuse_unshared(strategy)
    _agree(model_of(strategy), ranks, "start with")
    restore_random_states(ranks.from_first(random_states()))
    with training_together(ranks), _undivided_loaders(), in_shards(strategy, ranks, trains):
        yield
    _agree(model_of(strategy), ranks, "have come to")


@contextmanager
def _undivided_loaders() -> Iterator[None]:
    """Within a block Avalanche's loaders give every process all samples: it would hand each a part, and the same part
    in every epoch."""
    kind = type(DistributedHelper)
    before = kind.is_distributed
    kind.is_distributed = False
    try:
        yield
    finally:
        kind.is_distributed = before


def refuse_unshared(strategy: Strategy) -> None:
    """Refuse what cannot work in several processes.

    :param strategy: a strategy that is about to train or evaluate.
    :raises InputError: naming the part and the reason.
    """
    for plugin in strategy.plugins:
        if not getattr(plugin, "supports_distributed", False):
            raise InputError(
                f"{type(plugin).__name__} does not train in several processes: it does not say that it does "
                "(supports_distributed), and what it computes of a share of the gradients would be wrong"
            )
    model = model_of(strategy)
    if getattr(strategy, "shard", False):
        options = {"compile": strategy.compile, "fp16": strategy.amp == "fp16", "accumulate": strategy.accumulate > 1}
        options["grad_checkpointing"] = strategy.grad_checkpointing
        refuse_unshardable(
            "the training", model, strategy.plugins, strategy.optimizer, strategy.evaluator.metrics, options
        )
    for tower in ("image", "text"):
        if tower not in model.frozen and (why := _in_the_way(model, tower)):
            raise InputError(f"the {tower} tower does not train in several processes: {why}")


def _in_the_way(model: VLM, tower: str) -> str | None:
    for name, module in model.tower(tower).named_modules():
        if isinstance(module, _NORMALISING):
            return f"{name} normalises by the statistics of a batch, of which each process has a part; freeze the tower"
        drawn = getattr(module, "p", getattr(module, "prob", getattr(module, "drop_prob", 0)))
        draws = type(module).__name__ in _DRAWING and bool(drawn)
        if draws or (hasattr(module, "num_heads") and isinstance(p := getattr(module, "dropout", 0), float) and p > 0):
            return f"{name} draws what it leaves out for a part of the batch alone; set its dropout to 0"
    return None


def _agree(model: VLM, ranks: Ranks, when: str) -> None:
    """Refuse models that differ: a process that goes another way would be averaged into the others in silence."""
    weights = {name: p for name, p in model.named_parameters() if p.numel()}
    sums = torch.stack([p.detach().double().sum() for p in weights.values()]).tolist() if weights else []
    told = ranks.told(dict(zip(weights, sums, strict=True)))
    for rank, other in enumerate(told):
        odd = [name for name in {**told[0], **other} if not _close(told[0].get(name), other.get(name))]
        if odd:
            raise InputError(
                f"processes 0 and {rank} {when} different weights ({odd[0]}): every process has to make the same model "
                "and the same plugins in the same order, from the same seed"
            )


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return False
    return one == other or (one != one and other != other) or abs(one - other) <= 1e-6 * max(abs(one), abs(other), 1)
