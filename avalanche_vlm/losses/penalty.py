"""Quadratic penalties on weights, and importances that follow the training."""

from __future__ import annotations

from collections.abc import Mapping

import torch


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
    distances = []
    for name, tensor in anchor.items():
        squares = (parameters[name] - tensor).square()
        distances.append((squares if importance is None else importance[name].detach() * squares).sum())
    return torch.stack(distances).sum()


@torch.no_grad()
def add_quadratic_gradient(
    parameters: Mapping[str, torch.Tensor],
    anchor: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor] | None = None,
    weight: float = 1.0,
) -> None:
    """Add the gradient of ``weight`` times :func:`quadratic_penalty`, ``2 weight F (theta - anchor)``, to what the
    parameters have in ``grad``.

    What autograd would do with several copies of all weights, tensor by tensor and with one copy of one tensor.

    :param parameters: weights that train, with at least the anchor's names.
    :param anchor: weights to stay near, by name.
    :param importance: F, at least the anchor's names. None for 1.
    :param weight: what the penalty is multiplied by.

    >>> weights = {"w": torch.tensor([1.0, 2.0], requires_grad=True)}
    >>> add_quadratic_gradient(weights, {"w": torch.zeros(2)}, weight=3.0)
    >>> weights["w"].grad
    tensor([ 6., 12.])
    """
    for name, tensor in anchor.items():
        away = parameters[name] - tensor
        if importance is not None:
            away.mul_(importance[name])
        add_gradient(parameters[name], away, 2 * weight)


@torch.no_grad()
def add_gradient(parameter: torch.Tensor, gradient: torch.Tensor, factor: float = 1.0) -> None:
    """Add a gradient to what a parameter has in ``grad``, which may be None.

    :param parameter: weight that trains.
    :param gradient: gradient of its shape, which is not kept where the parameter has one.
    :param factor: what the gradient is multiplied by.
    """
    if parameter.grad is None:
        parameter.grad = gradient.mul(factor)
    else:
        parameter.grad.add_(gradient, alpha=factor)


@torch.no_grad()
def adaptive_fisher(gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The squared gradient of every tensor over the mean of its squares: GIFT's importances (Wu et al., arXiv
    2503.04229; the division by the mean is the authors' code).

    They say which weights of a tensor matter more than its others, not which tensors matter, and do not depend on the
    loss's scale. An entry can be as large as its tensor has elements: so it is where few rows of an embedding are in
    use.

    :param gradients: name to a non-empty tensor: the gradient of one batch's mean loss.
    :return: importances of the same names and shapes, at least 0 and 1 on average; all 0 where the gradient is 0.

    >>> adaptive_fisher({"w": torch.tensor([1.0, 0.0, -1.0, 2.0]), "unused": torch.zeros(2)})
    {'w': tensor([0.6667, 0.0000, 0.6667, 2.6667]), 'unused': tensor([0., 0.])}
    """
    return {name: _over_mean(gradient) for name, gradient in gradients.items()}


def _over_mean(gradient: torch.Tensor) -> torch.Tensor:
    # Squares of gradients below 1e-19 are 0 in float32: make the largest 1 first.
    tiny = torch.finfo(gradient.dtype).tiny
    squares = (gradient / gradient.abs().amax().clamp_min(tiny)).square()
    return squares / squares.mean().clamp_min(tiny)
