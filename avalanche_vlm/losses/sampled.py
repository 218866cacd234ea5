"""Cross-entropy over a sample of the classes that compete."""

from __future__ import annotations

import math

import torch

from avalanche_vlm._host import on_host


def sampled_negatives(competing: torch.Tensor, y: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which classes stand for all that compete: those of the batch, and some of the others.

    The classes of the batch that compete count themselves, and of the m others that do n are drawn, evenly and without
    replacement. Each of these stands for m / n: with log(m / n) added to its logit, the sum of exponentials in the
    softmax is an unbiased estimate of the sum over all classes that compete (Horvitz and Thompson's). The cross-entropy
    is the logarithm of that estimate, and so is too low on average, by about half the relative variance of the
    estimate; loss and gradient are biased likewise, less the more are drawn, and exact with n = m. It is the sampled
    softmax of arXiv 1412.2007 (section 3) with an even proposal, and the targets of the whole batch beside it.

    Draws from torch's global generator, and nothing where n is not below m.

    :param competing: bool ``[classes]``, or ``[B, classes]`` where samples differ.
    :param y: ids of the batch's classes ``[B]``.
    :param n: number of classes to draw, 1 or more.
    :return: bool ``[classes]``, the classes that are encoded, and the numbers to add to the logits ``[classes]``; both
        on the CPU.

    >>> kept, added = sampled_negatives(torch.ones(6, dtype=torch.bool), torch.tensor([2, 2, 0]), 2)
    >>> int(kept.sum()), bool(kept[[0, 2]].all()), round(float(added[kept].exp().sum()), 4)
    (4, True, 6.0)
    """
    competing, y = on_host(competing), on_host(y)
    everyone = competing if competing.ndim == 1 else competing.any(0)
    of_batch = torch.zeros_like(everyone)
    of_batch[y] = True
    (others,) = (everyone & ~of_batch).nonzero(as_tuple=True)
    added = torch.zeros(len(everyone))
    if n >= len(others):
        return everyone, added
    drawn = others[torch.randperm(len(others))[:n]]
    kept = of_batch & everyone
    kept[drawn] = True
    added[drawn] = math.log(len(others) / n)
    return kept, added
