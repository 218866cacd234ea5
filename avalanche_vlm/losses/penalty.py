"""Quadratic penalties on weights, and importances that follow the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from avalanche_vlm._on_demand import TensorsOnDemand
from avalanche_vlm.compat.tensors import add_each_, differences_of_each, products_of_each

_PIECE = 1 << 16
"""Numbers of a large tensor that are gone through at a time on a CPU: what lies between two operations stays in the
cache."""

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
    values = []
    for name, where in anchor.items():
        squares = (parameters[name] - where.detach()).square()
        values.append((squares if importance is None else importance[name].detach() * squares).sum())
    return torch.stack(values).sum()


@torch.no_grad()
def add_quadratic_penalty(
    parameters: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None = None,
    factor: float = 1.0,
) -> torch.Tensor:
    """After a backward pass, or before one that adds to the gradients that it finds: add the gradient of ``factor``
    times a :func:`quadratic_penalty` to those of the weights, in their place, ``w.grad += 2 factor F (w - anchor)``.

    The weights are gone through once, for gradient and value together, and no copy of them is made.

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
    resting = {name: where for name, where in anchor.items() if not parameters[name].requires_grad}
    values = [quadratic_penalty(parameters, resting, importance)] if resting else []
    for weights, anchors, gradients, *importances in _groups(parameters, anchor, importance):
        away = differences_of_each(weights, anchors)
        pull = products_of_each(importances[0], away) if importances else away
        add_each_(gradients, pull, 2 * factor)
        values += [p.flatten().dot(a.flatten().to(p.dtype)) for p, a in zip(pull, away, strict=True)]
    return factor * torch.stack(values).sum()


def _groups(
    parameters: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None,
) -> Iterator[tuple[list[torch.Tensor], ...]]:
    """The weights that train, their anchors, gradients and importances, a few numbers of each at a time."""
    group, size = list[tuple[torch.Tensor, ...]](), 0
    for name, where in anchor.items():
        weight = parameters[name]
        if not weight.requires_grad:
            continue
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        of_importance = () if importance is None else (importance[name],)
        for piece in _pieces(weight, where, weight.grad, *of_importance):
            group.append(piece)
            size += piece[0].numel()
            if size >= _AT_ONCE:
                yield tuple(map(list, zip(*group, strict=True)))
                group, size = [], 0
    if group:
        yield tuple(map(list, zip(*group, strict=True)))


def _pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Views of tensors of one shape, each of a few of their numbers; the tensors themselves, where these are small, do
    not lie in order or lie on an accelerator, which has no use for small pieces."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= _PIECE or not all(tensor.is_contiguous() for tensor in tensors):
        yield tensors
    else:
        yield from zip(*(tensor.view(-1).split(_PIECE) for tensor in tensors), strict=True)


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
