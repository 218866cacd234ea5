"""Towers of which each process keeps a part, for those that are too big for one device.

While a strategy trains or evaluates, torch's FSDP keeps the rows of most weights spread over the processes, and with
them gradients and what the optimizer gathers. A block of a tower is whole where it is at work, one after the other.
Before and after that the model is what it always is, where it was: so what is saved, copied or asked for outside knows
nothing of parts, and checkpoints are written and read while the towers are whole (:func:`whole_weights`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from avalanche_vlm._ranks import LOST, Ranks, tells_of_loss
from avalanche_vlm.compat.sharding import in_parts_of, own_part, unwrap_shards, wrap_in_shards
from avalanche_vlm.errors import InputError, ProcessLost
from avalanche_vlm.models import VLM
from avalanche_vlm.training.protocol import model_of
from avalanche_vlm.training.shardable import added_weights, kept_whole, units_to_shard, weights_in


class _Held(NamedTuple):
    """A weight that is spread over the processes.

    :param weight: the parameter as it is outside, and as the optimizer has it; in it lie the rows of this process.
    :param places: modules that have it, with its name there.
    :param shape: shape of the whole.
    """

    weight: nn.Parameter
    places: list[tuple[nn.Module, str]]
    shape: torch.Size

    @property
    def registered(self) -> nn.Parameter:
        """What the model has in its place meanwhile."""
        module, name = self.places[0]
        return getattr(module, name)


class ShardedTowers:
    """The towers of a model, spread over processes and back.

    :param model: the model, whole.
    :param optimizer: its optimizer, which keeps the parameters that it has.
    :param ranks: processes that train together.
    :param device: where this process trains.
    :raises InputError: if a tower cannot be spread, or not there.
    """

    def __init__(self, model: VLM, optimizer: torch.optim.Optimizer, ranks: Ranks, device: torch.device) -> None:
        if device.type != ranks.wire.type:
            raise InputError(
                f"sharded towers lie where the processes talk, and these train on {device.type} and talk on "
                f"{ranks.wire.type}: start them by distributed.start({device.type!r})"
            )
        self.model, self.optimizer, self.ranks, self.device = model, optimizer, ranks, device
        group: Any = torch.distributed.group.WORLD if ranks.group is None else ranks.group
        self._mesh = DeviceMesh.from_group(group, device.type)
        self._home = model.device
        self._units: list[nn.Module] = []
        self._held: list[_Held] = []

    # There and back --------------------------------------------------------------------------------------------------

    def spread(self) -> None:
        """Keep no more than this process's rows, of moments as well; the rest of the model goes to the device."""
        self.model.text_head.forget()
        added = added_weights(self.model)
        for unit in units_to_shard(self.model):
            here = weights_in(unit)
            whole = kept_whole(here, added)
            found = [_Held(p, places, p.shape) for p, places in here.items() if p not in whole]
            if not found:
                continue
            self._units.append(unit)
            wrap_in_shards(unit, self._mesh, whole)
            for held in found:
                self._change_moments(held, held.shape, self._rows)
                held.weight.data, held.weight.grad = own_part(held.registered), None
            self._held += found
        self.model.to(self.device)
        self._move_moments(self.device)

    def gather(self, moments: bool) -> None:
        """Have the towers whole where they were before, one tensor after the other.

        :param moments: whether what the optimizer has gathered becomes whole as well; otherwise it is dropped.
        """
        self.model.text_head.forget()
        if not moments:
            self.optimizer.state.clear()
        for unit in self._units:
            unwrap_shards(unit)
        for held in self._held:
            self._change_moments(held, held.weight.shape, lambda own, held=held: self._all_rows(own, held.shape))
            held.weight.requires_grad_(held.registered.requires_grad)
            held.weight.data, held.weight.grad = self._all_rows(held.weight, held.shape), None
            for module, name in held.places:
                setattr(module, name, held.weight)
        self._units, self._held = [], []
        self.model.to(self._home)
        self._move_moments(self._home)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within a block all is as it would be in one process."""
        self.gather(moments=True)
        try:
            yield
        finally:
            self.spread()

    def _move_moments(self, device: torch.device) -> None:
        """Have what the optimizer has gathered where the model is, of what is not spread as well."""
        for group in self.optimizer.param_groups:
            counts_there = group.get("fused") or group.get("capturable")
            for state in (self.optimizer.state.get(p, {}) for p in group["params"]):
                of_device = {n: t for n, t in state.items() if torch.is_tensor(t) and (t.ndim or counts_there)}
                state.update({name: tensor.to(device) for name, tensor in of_device.items()})

    def _change_moments(self, held: _Held, like: torch.Size, change: Any) -> None:
        """Change what an optimizer has of a weight's shape.

        :param held: weight that the optimizer has.
        :param like: the shape that it has now.
        :param change: makes another tensor of one.
        """
        state = self.optimizer.state.get(held.weight, {})
        for name, value in state.items():
            if not (isinstance(value, torch.Tensor) and value.ndim):
                continue
            if value.shape != like:
                raise InputError(
                    f"{type(self.optimizer).__name__} has a {name} of the shape {list(value.shape)} for a weight of "
                    f"{list(like)}, of which no process would have a part: leave shard out"
                )
            state[name] = change(value)

    def _bounds(self, rows: int, rank: int) -> slice:
        """The rows of a process, as torch deals them: all have as many as the first, until there are no more."""
        each = -(-rows // self.ranks.size)
        return slice(min(rows, rank * each), min(rows, (rank + 1) * each))

    def _rows(self, whole: torch.Tensor) -> torch.Tensor:
        return whole[self._bounds(len(whole), self.ranks.rank)].to(self.device, copy=True)

    def _all_rows(self, own: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        of_each = (self._bounds(shape[0], rank) for rank in range(self.ranks.size))
        return torch.cat(self.ranks.gather(own, [rows.stop - rows.start for rows in of_each])).to(self._home)

    # A step ----------------------------------------------------------------------------------------------------------

    def trained(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Parameters as an optimizer has them.

        :param parameters: parameters of the model as they are registered, by name.
        """
        known = {id(held.registered): held.weight for held in self._held}
        return {name: known.get(id(p), p) for name, p in parameters.items()}

    def settle_gradients(self) -> None:
        """After backward: put the gradients of this process's rows, which are means already, where the optimizer looks
        for them, and average those of all that is not spread."""
        for held in self._held:
            registered = held.registered
            own = own_part(registered)
            if held.weight.data_ptr() != own.data_ptr():  # FSDP has laid them elsewhere when it first ran
                held.weight.data = own
            if registered.grad is not None:
                held.weight.grad, registered.grad = own_part(registered.grad), None
        self.ranks.average_gradients(p for p in self.model.parameters() if not in_parts_of(p))

    def clip(self, most: float) -> None:
        """Clip the norm of all gradients, as if they were in one process.

        :param most: the largest norm.
        """
        spread = {id(held.weight) for held in self._held}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        parts = [p.grad for p in parameters if id(p) in spread and p.grad is not None]
        rest = [p.grad for p in parameters if id(p) not in spread and p.grad is not None]
        squares = [torch.nn.utils.get_total_norm(of, foreach=True).to(self.device).square() for of in (parts, rest)]
        norm = (self.ranks.sum(squares[0]) + squares[1]).sqrt()
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=True)

    def stepped(self) -> None:
        """After a step: what was computed of the weights before is not what they are now. No counter of torch's tells
        of rows that the model has as a part of something else."""
        self.model.text_head.forget()

    @property
    def nbytes(self) -> int:
        """Bytes of weights, gradients and moments that this process has of what is spread."""
        tensors: list[torch.Tensor] = [held.weight for held in self._held]
        tensors += [of.grad for of in tensors if of.grad is not None]
        moments = [of for held in self._held for of in self.optimizer.state.get(held.weight, {}).values()]
        return sum(of.nbytes for of in [*tensors, *(of for of in moments if isinstance(of, torch.Tensor) and of.ndim)])

    def numbers(self, parameter: torch.Tensor) -> int:
        """How many numbers a parameter of the optimizer has in all processes.

        :param parameter: one of the optimizer's.
        """
        return next((held.shape.numel() for held in self._held if held.weight is parameter), parameter.numel())


# Strategies ---------------------------------------------------------------------------------------------------------


def refuse_in_parts(strategy: Any) -> None:
    """Refuse a model that an error has left in parts, before anyone takes them for weights.

    :param strategy: a strategy that is about to train or evaluate.
    :raises InputError: if its towers are in parts, by itself or by another strategy.
    """
    if getattr(strategy, "shards", None) is not None or any(in_parts_of(p) for p in model_of(strategy).parameters()):
        raise InputError(
            "the towers are in parts since a training has ended with an error: make the model anew, and go on from its "
            "last checkpoint"
        )


@contextmanager
def in_shards(strategy: Any, ranks: Ranks, trains: bool) -> Iterator[None]:
    """Within a block the towers of a strategy's model are spread over processes, if it asks for that. After an error
    they stay so: somebody may be missing without whom they are never whole again.

    :param strategy: the strategy, whose model is whole, and the same in all processes.
    :param ranks: processes that train together.
    :param trains: whether it trains, after which moments are dropped unless they are kept; an evaluation leaves them.
    :raises InputError: if something does not go with it.
    """
    if not getattr(strategy, "shard", False):
        yield
        return
    towers = ShardedTowers(model_of(strategy), strategy.optimizer, ranks, strategy.device)
    strategy.shards = towers
    towers.spread()
    try:
        yield
    except RuntimeError as error:  # FSDP's own conversations are none of ours, which say it themselves
        if tells_of_loss(error):
            raise ProcessLost(LOST) from error
        raise
    towers.gather(moments=strategy.keep_optimizer_state or not trains)
    strategy.shards = None


def whole_weights(strategy: Any) -> AbstractContextManager[None]:
    """Makes the context in which a strategy's model and optimizer are whole, in all processes: they all have to enter.

    :param strategy: any strategy, in whatever it does.
    """
    shards = getattr(strategy, "shards", None)
    return nullcontext() if shards is None else shards.whole()
