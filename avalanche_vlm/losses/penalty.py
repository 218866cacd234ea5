"""Quadratic penalties on weights, and importances that follow the training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from avalanche_vlm._on_demand import TensorsOnDemand, pieces
from avalanche_vlm.compat.tensors import add_each_, differences_of_each, products_of_each

_PIECE = 1 << 16
"""Numbers of a large tensor that are gone through at a time on a CPU: what lies between two operations stays in the
cache."""

_PIECE_ELSEWHERE = 1 << 24
"""The same on an accelerator, where a piece costs a few calls whatever its size."""

_AT_ONCE = 2 * _PIECE
"""Numbers from which on small tensors are enough for one call."""


def quadratic_penalty(
    parameters: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The squared distance to an anchor, ``sum F (theta - anchor)^2``.

    With ``F = 1`` it is the weight constraint of ZSCL (arXiv 2303.06628, eq. 7); with the diagonal Fisher information
    the quadratic form of EWC (Kirkpatrick et al., arXiv 1612.00796, eq. 3, without its factor of one half); with
    :func:`adaptive_fisher` the consolidation of GIFT (Wu et al., arXiv 2503.04229). A training step that has it in its
    loss keeps copies of all weights until its backward pass is over: :func:`add_quadratic_penalty` keeps none.

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
    value = torch.zeros(())
    for name, where in anchor.items():
        squares = (parameters[name] - where.detach()).square()
        value = value + (squares if importance is None else importance[name].detach() * squares).sum()
    return value


@torch.no_grad()
def add_quadratic_penalty(
    parameters: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None = None,
    factor: float = 1.0,
) -> torch.Tensor:
    """After a backward pass, or before one that adds to the gradients that it finds: add the gradient of ``factor``
    times a :func:`quadratic_penalty` to those of the weights, in their place, ``w.grad += 2 factor F (w - anchor)``.

    The weights are gone through once, for gradient and value together, a few numbers at a time.

    :param parameters: weights that train, with at least the anchor's names. One without a gradient gets one, and one
        that does not require a gradient counts in the value alone.
    :param anchor: weights to stay near, by name.
    :param importance: F, at least the anchor's names, each of which is asked for once; None for 1.
    :param factor: weight of the penalty.
    :return: ``factor`` times the penalty, a scalar without a graph.

    >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> weight.sum().backward()
    >>> add_quadratic_penalty({"w": weight}, {"w": torch.zeros(2)}, factor=0.5)
    tensor(2.5000)
    >>> weight.grad
    tensor([2., 3.])
    """
    resting = [name for name in anchor if not parameters[name].requires_grad]
    gradients = {name: _gradient(parameters[name]) for name in anchor if parameters[name].requires_grad}
    return factor * (
        _gone_through(gradients, parameters, anchor, importance, gradients, 2 * factor)
        + _gone_through(resting, parameters, anchor, importance)
    )


def _gradient(weight: torch.Tensor) -> torch.Tensor:
    """A weight's gradient as a tensor that can be added to: of zeros where there was none, and no longer sparse."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    elif weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()
    return weight.grad


def _gone_through(
    names: Iterable[str],
    parameters: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None = None,
    gradients: Mapping[str, torch.Tensor] | None = None,
    alpha: float = 0.0,
) -> torch.Tensor:
    """The penalty of these weights, and ``alpha F (w - anchor)`` added to their gradients, a few numbers at a time."""
    value = torch.zeros(())
    columns = [column for column in (importance, gradients) if column is not None]
    for weights, anchors, *others in _groups(names, parameters, anchor, *columns):
        away = differences_of_each(weights, anchors)
        pull = away if importance is None else products_of_each(others[0], away)
        if gradients is not None:
            add_each_(others[-1], pull, alpha)
        dots = [p.flatten().dot(a.flatten().to(p.dtype)) for p, a in zip(pull, away, strict=True)]
        value = value + torch.stack(dots).sum()
    return value


def _groups(names: Iterable[str], *columns: Mapping[str, torch.Tensor]) -> Iterator[list[list[torch.Tensor]]]:
    """The tensors that go by a name, of one tensor or of some, and of a large one piece by piece."""
    group, size = list[tuple[torch.Tensor, ...]](), 0
    for name in names:
        tensors = [column[name] for column in columns]
        for piece in pieces(*tensors, size=_PIECE if tensors[0].device.type == "cpu" else _PIECE_ELSEWHERE):
            group.append(piece)
            size += piece[0].numel()
            if size >= _AT_ONCE:
                yield [list(of_column) for of_column in zip(*group, strict=True)]
                group, size = [], 0
    if group:
        yield [list(of_column) for of_column in zip(*group, strict=True)]


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
        return value.clone(), _gone_through(names, parameters, anchor, adaptive_fisher(gradients))

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
