"""Quadratic penalties on weights, and importances that follow the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial, reduce
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from avalanche_vlm._gradients import hang
from avalanche_vlm._on_demand import TensorsOnDemand, pieces
from avalanche_vlm.compat.tensors import is_batched

_GROUP = 1 << 20
"""Numbers from which on tensors have a node of their own in the graph."""

_PIECE = 1 << 16
"""Numbers that are gone through at a time on a CPU."""


def quadratic_penalty(
    parameters: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The squared distance to an anchor, ``sum F (theta - anchor)^2``.

    With ``F = 1`` it is the weight constraint of ZSCL (arXiv 2303.06628, eq. 7); with the diagonal Fisher information
    the quadratic form of EWC (Kirkpatrick et al., arXiv 1612.00796, eq. 3, without its factor of one half); with
    :func:`adaptive_fisher` the consolidation of GIFT (Wu et al., arXiv 2503.04229).

    :param parameters: weights that train, with at least the anchor's names.
    :param anchor: weights to stay near, by name; no gradient flows into them.
    :param importance: F, at least the anchor's names; no gradient flows into it. None for 1.
    :return: scalar, at least 0 where the importance is.

    >>> weights, anchor = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.zeros(2)}
    >>> quadratic_penalty(weights, anchor).item()
    5.0
    >>> quadratic_penalty(weights, anchor, {"w": torch.tensor([3.0, 0.5])}).item()
    5.0
    """
    values = [
        _Quadratic.apply(names, parameters, anchor, importance, *_inputs(names, parameters, anchor, importance))
        for names in _groups(anchor)
    ]
    return torch.stack(values).sum()


def _inputs(
    names: list[str],
    parameters: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None,
) -> Iterator[torch.Tensor]:
    """To what the gradient of each weight is sent: to itself, or, of one that was read, a factor to the reading."""
    for name in names:
        if not torch.is_grad_enabled():
            # A weight that trains asks for its gradient even where no graph is made, and it would be kept for nobody.
            yield parameters[name].detach()
            continue
        end = None
        if parameters[name].requires_grad:
            end = hang(
                parameters[name], anchor[name], None if importance is None else partial(importance.__getitem__, name)
            )
        yield parameters[name] if end is None else end


def _groups(anchor: Mapping[str, torch.Tensor]) -> Iterator[list[str]]:
    """Names of a few large tensors, or of many small ones: each group is a node of the graph."""
    names, size = list[str](), 0
    for name, tensor in anchor.items():
        names.append(name)
        size += tensor.numel()
        if size >= _GROUP:
            yield names
            names, size = [], 0
    if names:
        yield names


class _Quadratic(torch.autograd.Function):
    """``sum F (theta - anchor)^2``, and ``F (theta - anchor)`` in the same pass over the weights, which the backward
    pass scales where it lies. Autograd's own would keep the distances and their products with F apart, several copies
    of all weights."""

    @staticmethod
    def forward(
        ctx: Any,
        names: list[str],
        parameters: Mapping[str, torch.Tensor],
        anchor: Mapping[str, torch.Tensor],
        importance: Mapping[str, torch.Tensor] | None,
        *inputs: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(*(parameters[name] for name in names))
        ctx.names, ctx.anchor, ctx.importance = names, anchor, importance
        ctx.hangs = [given is not parameters[name] for name, given in zip(names, inputs, strict=True)]
        ctx.pulls, values = {}, []
        for name, needed, hangs in zip(names, ctx.needs_input_grad[4:], ctx.hangs, strict=True):
            of = None if importance is None else importance[name]
            value, pull = _weighted_square(parameters[name], anchor[name], of, needed and not hangs)
            values.append(value)
            if pull is not None:
                ctx.pulls[name] = pull
        return torch.stack(values).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found: list[torch.Tensor | None] = [None, None, None, None]
        factor = 2 * incoming
        given = zip(ctx.names, ctx.saved_tensors, ctx.needs_input_grad[4:], ctx.hangs, strict=True)
        for name, weight, needed, hangs in given:
            if not needed or hangs:
                found.append(incoming if needed else None)
            elif is_batched(factor):
                found.append(_pull(ctx, name, weight) * factor)
            else:
                found.append(_pull(ctx, name, weight).mul_(factor))
        return tuple(found)


def _pull(ctx: Any, name: str, weight: torch.Tensor) -> torch.Tensor:
    """``F (theta - anchor)``, which is given away: whoever goes back through the same graph again has it made anew."""
    kept: torch.Tensor | None = ctx.pulls.pop(name, None)
    if kept is None:
        kept = weight - ctx.anchor[name]
        if ctx.importance is not None:
            kept.mul_(ctx.importance[name])
    return kept


def _weighted_square(
    weight: torch.Tensor, anchor: torch.Tensor, importance: torch.Tensor | None, keep: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """``sum F (theta - anchor)^2``, and ``F (theta - anchor)`` if it is to be kept: no view, or the engine of autograd
    would take other memory to add to it."""
    number = weight.numel()
    if weight.device.type != "cpu" or number <= _PIECE:
        away = weight - anchor
        pull = away if importance is None else importance * away
        return pull.flatten().dot(away.flatten().to(pull.dtype)), pull if keep else None
    # On a CPU piece by piece, so that what lies between two operations stays in the cache, and in the same memory.
    tensors = [t.reshape(-1) for t in ((weight, anchor) if importance is None else (weight, anchor, importance))]
    dtype = reduce(torch.promote_types, (t.dtype for t in tensors))
    between, rest = (weight.new_empty(_PIECE, dtype=dtype) for _ in range(2))
    kept = weight.new_empty(weight.shape, dtype=dtype) if keep else None
    values, written = [], None if kept is None else kept.view(-1)
    for start in range(0, number, _PIECE):
        w, a, *f = (t[start : start + _PIECE] for t in tensors)
        pull = rest[: len(w)] if written is None else written[start : start + _PIECE]
        away = torch.sub(w, a, out=between[: len(w)] if f else pull)
        for of_weight in f:
            torch.mul(of_weight, away, out=pull)
        values.append(pull.dot(away))
    return torch.stack(values).sum(), kept


def consolidated(
    value: torch.Tensor,
    parameters: Mapping[str, torch.Tensor],
    gradients: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss whose gradient is known already, and the :func:`quadratic_penalty` with its :func:`adaptive_fisher`.

    Both have their gradient in one backward pass, for which the known gradients give their memory: they hold something
    else afterwards, and there is no second backward pass.

    :param value: the loss, a scalar of which no graph is needed.
    :param parameters: weights that train, by name.
    :param gradients: gradient of the loss by each, by the same names; they are used up.
    :param anchor: weights to stay near, by the same names.
    :return: the loss and the penalty, scalars.

    >>> weight, gradient = torch.ones(2, requires_grad=True), torch.tensor([1.0, 3.0])
    >>> loss, penalty = consolidated(torch.tensor(3.0), {"w": weight}, {"w": gradient}, {"w": torch.zeros(2)})
    >>> loss.item(), penalty.item()
    (3.0, 2.0)
    >>> (loss + penalty).backward()
    >>> weight.grad
    tensor([1.4000, 6.6000])
    """
    found: tuple[torch.Tensor, torch.Tensor] = _Consolidated.apply(
        value.detach(), _apart(gradients), anchor, list(parameters), *parameters.values()
    )
    return found


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, or a copy of one that shares its memory with another, with itself or with something else."""
    apart, taken = dict[str, torch.Tensor](), set[int]()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage()
        apart[name] = tensor.clone() if memory.nbytes() != tensor.nbytes or memory.data_ptr() in taken else tensor
        taken.add(memory.data_ptr())
    return apart


class _Consolidated(torch.autograd.Function):
    """Known gradients, and those of the penalty whose importances follow from them."""

    @staticmethod
    def forward(
        ctx: Any,
        value: torch.Tensor,
        gradients: Mapping[str, torch.Tensor],
        anchor: Mapping[str, torch.Tensor],
        names: list[str],
        *weights: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(*weights)
        ctx.gradients, ctx.anchor, ctx.names = gradients, anchor, names
        parameters = dict(zip(names, weights, strict=True))
        return value.clone(), quadratic_penalty(parameters, anchor, adaptive_fisher(gradients))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_value: torch.Tensor, of_penalty: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        importances = adaptive_fisher(gradients)
        for name, weight in zip(ctx.names, ctx.saved_tensors, strict=True):
            pulled = importances[name]
            for piece, w, a in pieces(pulled, weight, ctx.anchor[name]):
                piece.mul_(w - a)
            gradients[name].mul_(of_value.reshape(())).add_(pulled.mul_(2 * of_penalty.reshape(())))
        # Nobody else has them any more: autograd takes them as they are and makes no copy.
        return None, None, None, None, *(gradients.pop(name) for name in ctx.names)


def adaptive_fisher(gradients: Mapping[str, torch.Tensor]) -> TensorsOnDemand:
    """The squared gradient of every tensor over the mean of its squares: GIFT's importances (Wu et al., arXiv
    2503.04229; the division by the mean is the authors' code).

    They say which weights of a tensor matter more than its others, not which tensors matter, and do not depend on the
    loss's scale. An entry can be as large as its tensor has elements: so it is where few rows of an embedding are in
    use.

    :param gradients: name to a non-empty tensor: the gradient of one batch's mean loss.
    :return: importances of the same names and shapes, at least 0 and 1 on average; all 0 where the gradient is 0. Each
        is made when it is asked for, and none is held.

    >>> dict(adaptive_fisher({"w": torch.tensor([1.0, 0.0, -1.0, 2.0]), "unused": torch.zeros(2)}))
    {'w': tensor([0.6667, 0.0000, 0.6667, 2.6667]), 'unused': tensor([0., 0.])}
    """
    return TensorsOnDemand(gradients.keys(), lambda name: _over_mean(gradients[name]))


def _over_mean(gradient: torch.Tensor) -> torch.Tensor:
    # Squares of gradients below 1e-19 are 0 in float32: make the largest 1 first.
    tiny = torch.finfo(gradient.dtype).tiny
    largest = torch.maximum(gradient.amax(), -gradient.amin())
    squares = (gradient / largest.clamp_min(tiny)).square_()
    return squares.div_(squares.mean().clamp_min(tiny))
