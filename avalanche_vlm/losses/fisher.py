"""Diagonals of the Fisher information, the true and the empirical kept apart.

Both are means of squared gradients of the log-likelihood. The *true* Fisher takes the labels from the model's own
distribution and is a curvature: of the KL divergence at the model, and of the loss where the model fits. The
*empirical* Fisher takes the labels of the data; it is no curvature in general, goes to 0 where the data are fitted and
is largest where they are not (Kunstner et al., arXiv 1905.12558). What is published as EWC is often the second, or
takes the model's likeliest label: hardly anything is left of that where the model is confident.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F

FisherKind = Literal["true", "empirical", "predicted"]
"""Where the labels are from: drawn from the model, those of the data, or those that the model finds likeliest."""

Importance = dict[str, torch.Tensor]


def squared_gradients(losses: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> Importance:
    """The mean over samples of the squared gradient of each sample's loss.

    Not the squared gradient of the mean loss, in which the samples' gradients cancel. It takes one backward pass a
    loss, each through the whole graph: for a large model give few samples at a time and average.

    :param losses: ``[B]``, B at least 1, the loss of each sample, with their graph; it is freed.
    :param parameters: name to tensor that requires a gradient.
    :return: tensors of the parameters' names and shapes, at least 0; all 0 for a parameter that no loss depends on.
    :raises ValueError: if ``losses`` is not a non-empty vector.

    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> squared_gradients(torch.stack([3 * w[0], w[0] * w[1]]), {"w": w})
    {'w': tensor([6.5000, 0.5000])}
    """
    if losses.dim() != 1 or len(losses) == 0:
        raise ValueError(f"squared gradients need the losses of some samples [B], got {list(losses.shape)}")
    sums = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    add_squared_gradients(sums, losses, parameters)
    for total in sums.values():
        total.div_(len(losses))
    return sums


def add_squared_gradients(
    sums: Mapping[str, torch.Tensor], losses: torch.Tensor, parameters: Mapping[str, torch.Tensor]
) -> None:
    """Add the squared gradient of each sample's loss, in place: what :func:`squared_gradients` is the mean of.

    :param sums: tensors of the parameters' names and shapes; changed.
    :param losses: ``[B]``, the loss of each sample, with their graph; it is freed.
    :param parameters: name to tensor that requires a gradient.

    >>> w, sums = torch.tensor([1.0, 2.0], requires_grad=True), {"w": torch.ones(2)}
    >>> add_squared_gradients(sums, torch.stack([3 * w[0], w[0] * w[1]]), {"w": w}); sums
    {'w': tensor([14.,  2.])}
    """
    for number, loss in enumerate(losses, start=1):
        gradients = torch.autograd.grad(
            loss, list(parameters.values()), retain_graph=number < len(losses), allow_unused=True
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                sums[name].addcmul_(gradient, gradient)


def sketched_squares(
    losses: torch.Tensor,
    parameters: Mapping[str, torch.Tensor],
    draws: int = 4,
    generator: torch.Generator | None = None,
) -> Importance:
    """An unbiased estimate of :func:`squared_gradients` by ``draws`` backward passes, however many the losses.

    Every pass takes ``(sum_b s_b g_b)^2 / B`` with a random sign ``s_b`` for each sample: the products of different
    samples cancel in expectation, as in Hutchinson's estimator of a diagonal. A single element is off by about its own
    size over the root of ``draws``, so use it for sums over many elements.

    :param losses: ``[B]``, B at least 1, with their graph; it is freed.
    :param parameters: name to tensor that requires a gradient.
    :param draws: number of backward passes, at least 1.
    :param generator: draws the signs; on the CPU.
    :return: tensors of the parameters' names and shapes, at least 0.
    :raises ValueError: if ``losses`` is not a non-empty vector, or ``draws`` not positive.

    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> sketched_squares((3 * w[0])[None], {"w": w}, draws=2)
    {'w': tensor([9., 0.])}
    """
    if losses.dim() != 1 or len(losses) == 0 or draws < 1:
        raise ValueError(f"sketched squares need the losses of some samples [B] and draws, got {list(losses.shape)}")
    signs = torch.randint(0, 2, (draws, len(losses)), generator=generator).mul_(2).sub_(1).to(losses)
    sums = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    for draw, sign in enumerate(signs, start=1):
        gradients = torch.autograd.grad(
            sign @ losses, list(parameters.values()), retain_graph=draw < draws, allow_unused=True
        )
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total.addcmul_(gradient, gradient)
    return {name: total / (draws * len(losses)) for name, total in sums.items()}


def empirical_fisher(logits: torch.Tensor, y: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> Importance:
    """The diagonal of the empirical Fisher: squared gradients at the labels of the data.

    It is not an estimate of :func:`true_fisher`, however many the data: see Kunstner et al. (arXiv 1905.12558).

    :param logits: ``[B, C]`` with their graph, which is freed.
    :param y: ``[B]`` labels of the data.
    :param parameters: name to tensor that requires a gradient.
    :return: tensors of the parameters' names and shapes, at least 0.

    >>> w = torch.zeros(2, requires_grad=True)
    >>> empirical_fisher(w[None, :] * torch.ones(4, 1), torch.tensor([0, 0, 0, 1]), {"w": w})
    {'w': tensor([0.2500, 0.2500])}
    """
    return squared_gradients(F.cross_entropy(logits, y, reduction="none"), parameters)


def true_fisher(
    logits: torch.Tensor,
    parameters: Mapping[str, torch.Tensor],
    generator: torch.Generator | None = None,
    exact: bool = False,
) -> Importance:
    """The diagonal of the true Fisher, ``E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta)^2``: that of EWC (Kirkpatrick et
    al., arXiv 1612.00796), with labels of the model's own.

    :param logits: ``[B, C]`` with their graph, which is freed.
    :param parameters: name to tensor that requires a gradient.
    :param generator: draws the labels.
    :param exact: take the expectation over all C labels instead of one draw: C times the backward passes.
    :return: tensors of the parameters' names and shapes, at least 0; without ``exact`` an unbiased estimate.

    >>> w = torch.zeros(2, requires_grad=True)
    >>> true_fisher(w[None, :] * torch.ones(4, 1), {"w": w}, exact=True)
    {'w': tensor([0.2500, 0.2500])}
    """
    return squared_gradients(true_fisher_losses(logits, generator, exact), parameters)


def true_fisher_losses(
    logits: torch.Tensor, generator: torch.Generator | None = None, exact: bool = False
) -> torch.Tensor:
    """Losses whose :func:`squared_gradients` are the true Fisher's diagonal.

    A class that has no probability for any of the samples, as one that does not compete, has no say: neither in what is
    drawn nor in how sums are rounded.

    :param logits: logits ``[B, C]`` with their graph.
    :param generator: draws one label a sample from the softmax; on the logits' device.
    :param exact: weigh all labels instead of drawing one.
    :return: ``[B]``, ``-log p(y_b)`` of the labels drawn; or ``[B * C]`` with C classes that have a probability,
        ``-sqrt(C p_c) log p_c`` with the weight held constant, so that the mean of the squares is the expectation.

    >>> [round(loss, 4) for loss in true_fisher_losses(torch.zeros(1, 2), exact=True).tolist()]
    [0.6931, 0.6931]
    """
    logits = logits[:, _possible(logits)]
    logs = logits.log_softmax(1)
    probabilities = logs.detach().exp()
    if exact:
        return -((logits.shape[1] * probabilities).sqrt() * logs).flatten()
    drawn = torch.multinomial(probabilities, 1, generator=generator)
    return -logs.gather(1, drawn).squeeze(1)


def fisher_losses(
    logits: torch.Tensor, y: torch.Tensor, kind: FisherKind, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Losses whose :func:`squared_gradients` are a Fisher's diagonal, of any kind.

    :param logits: logits ``[B, C]`` with their graph.
    :param y: labels of the data ``[B]``, of which ``"empirical"`` alone takes note.
    :param kind: where the labels are from.
    :param generator: draws the labels of ``"true"``, on the CPU; None for torch's own.
    :return: ``[B]``, minus the log-probability of each sample's label.

    >>> logits, y = torch.tensor([[2.0, 0.0]]), torch.tensor([1])
    >>> [round(fisher_losses(logits, y, kind).item(), 3) for kind in ("empirical", "predicted")]
    [2.127, 0.127]
    """
    if kind == "true":
        seed = int(torch.randint(2**62, (), generator=generator))
        return true_fisher_losses(logits, torch.Generator(logits.device).manual_seed(seed))
    labels = y if kind == "empirical" else logits.argmax(1)
    counted = _possible(logits)
    counted[labels] = True
    return F.cross_entropy(logits[:, counted], (counted.cumsum(0) - 1)[labels], reduction="none")


def _possible(logits: torch.Tensor) -> torch.Tensor:
    """Which classes ``[C]`` have a probability above 0 for any of the samples."""
    return ~(logits.detach().softmax(1) == 0).all(0)  # a NaN is passed on to whoever looks for one


@torch.no_grad()
def accumulate(fisher: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], decay: float = 1.0) -> Importance:
    """``decay * fisher + new``: the one running Fisher of online EWC (Schwarz et al., arXiv 1805.06370), in place of
    one for each task. A decay of 1 is the sum over the tasks; below 1 the old tasks fade.

    :param fisher: the importances so far; empty before the first task.
    :param new: importances of the task just learned.
    :param decay: factor of the old importances, in [0, 1].
    :return: new tensors for the names of both; a name that only one has counts as 0 in the other.
    :raises ValueError: if ``decay`` is out of range.

    >>> accumulate({"w": torch.tensor([4.0])}, {"w": torch.tensor([1.0])}, decay=0.5)
    {'w': tensor([3.])}
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"the decay of old importances must lie in [0, 1], got {decay}")
    total = {name: decay * tensor for name, tensor in fisher.items()}
    for name, tensor in new.items():
        total[name] = total[name] + tensor if name in total else tensor.clone()
    return total
