"""What of a model can be spread over processes, and which trainings cannot do with parts of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval
from torch import nn

from avalanche_vlm._ranks import found_ranks
from avalanche_vlm.compat.sharding import can_shard
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.blocks import tower_blocks
from avalanche_vlm.models.modules.site import sites_of

_LOOKS_ON = (EvaluationPlugin, PeriodicEval, Clock)
"""Plugins of Avalanche's that have nothing to do with weights."""

_ELEMENTWISE = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD")
"""Optimizers of torch's whose step for one number depends on no other. What others compute of the rows of a tensor may
be another step than that of the whole, and nothing would tell: a norm, a mean, a factor of the tensor."""


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


def weights_in(module: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """The parameters of a module, and where they are.

    :param module: module whose parameters are asked for.
    :return: modules that have a parameter, with its name there.
    """
    found: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(parameter, []).append((part, name))
    return found


def added_weights(model: VLM) -> set[nn.Parameter]:
    """What methods have added at places of the towers: it comes and goes, and stays in every process.

    :param model: a model whose towers are whole.
    """
    return {p for site in sites_of(model) for p in _added(site)}


def kept_whole(weights: Collection[nn.Parameter], added: set[nn.Parameter]) -> set[nn.Parameter]:
    """Those of which FSDP takes no part: what methods have added, numbers, tensors whose elements do not lie in order,
    and, since gradients of one kind alone go together, all kinds but the one that most numbers are of.

    :param weights: all of a module that becomes whole at once.
    :param added: what methods have added (:func:`added_weights`).
    """
    of_kind: dict[torch.dtype, int] = {}
    for weight in weights:
        of_kind[weight.dtype] = of_kind.get(weight.dtype, 0) + weight.numel()
    most = max(of_kind, key=lambda kind: of_kind[kind], default=None)
    odd = {p for p in weights if p.ndim == 0 or p.numel() == 0 or not p.is_contiguous() or p.dtype != most}
    return odd | (added & set(weights))


def _added(site: Any) -> Iterator[nn.Parameter]:
    yield from site.bank.parameters()
    if site.shared is not None:
        yield from site.shared.parameters()


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
    if optimizer is not None and not _is_elementwise(optimizer):
        raise InputError(
            f"{what} does not go with shard: {type(optimizer).__name__} may compute a step of whole tensors, of which "
            f"it would find a part; take one of torch's own ({', '.join(_ELEMENTWISE)}), or, if its step for each "
            "number depends on no other, say so by an attribute: elementwise = True"
        )
    _refuse_shared(what, model)


def _is_elementwise(optimizer: torch.optim.Optimizer) -> bool:
    of_torch = type(optimizer) in {getattr(torch.optim, name) for name in _ELEMENTWISE}  # a subclass may do otherwise
    return of_torch or bool(getattr(optimizer, "elementwise", False))


def _refuse_shared(what: str, model: VLM) -> None:
    """Refuse weights that something outside has as well: it would find a part of them, or none."""
    added, everywhere = added_weights(model), weights_in(model)
    seen: set[nn.Parameter] = set()
    for unit in units_to_shard(model):
        here = weights_in(unit)
        spread = here.keys() - kept_whole(here, added)
        for weight in (p for p in here if p in spread):
            if weight in seen or len(everywhere[weight]) > len(here[weight]):
                names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is weight]
                raise InputError(
                    f"{what} does not go with shard: {' and '.join(names)} are one weight, and only one block or "
                    "embedding can have it in parts; give each a weight of its own, or leave shard out"
                )
        seen |= spread
