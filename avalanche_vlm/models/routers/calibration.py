"""Where a task ends: thresholds from samples that were kept out of its fit, and the rates that they achieve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers.base import Route


class Rates(NamedTuple):
    """What thresholds do to samples whose task is known, and to samples of none.

    :param turned_away: ``[T]``, share of each task's own samples that were out of distribution: false positives.
    :param misplaced: ``[T]``, share of them that went to another task.
    :param ood_accepted: share of the samples of no task that went to any: false negatives.
    """

    turned_away: torch.Tensor
    misplaced: torch.Tensor
    ood_accepted: float


def achieved_rates(own: Sequence[Route], others: Route) -> Rates:
    """The rates at which a router errs, on samples that it has not seen.

    :param own: a router's answers for each task's samples, in the order of the tasks.
    :param others: its answers for samples that belong to none.

    >>> yes, no = torch.tensor([True]), torch.tensor([False])
    >>> first, second = torch.tensor([0]), torch.tensor([1])
    >>> kept, away, wrong = Route(first, yes, no), Route(second, yes, yes), Route(second, yes, no)
    >>> rates = achieved_rates([wrong, away], kept)
    >>> rates.turned_away.tolist(), rates.misplaced.tolist(), rates.ood_accepted
    ([0.0, 1.0], [1.0, 0.0], 1.0)
    """
    away = [route.is_out_of_distribution for route in own]
    misplaced = [~route.is_out_of_distribution & (route.task != task) for task, route in enumerate(own)]
    return Rates(
        torch.stack([part.float().mean() for part in away]),
        torch.stack([part.float().mean() for part in misplaced]),
        1 - others.is_out_of_distribution.float().mean().item(),
    )


def upper_quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """The smallest of the values that a new one of the same kind stays below with at least this probability.

    That is the ``ceil((n + 1) share)``-th smallest of ``n`` (split conformal prediction, Lei et al., arXiv
    1604.04173), or the largest if there are too few to promise so much: for a share of 0.95 one needs 19.

    :param values: ``[n]``, ``n`` at least 1.
    :param share: the probability, in (0, 1).

    >>> upper_quantile(torch.arange(1.0, 20.0), 0.95).item(), upper_quantile(torch.arange(1.0, 4.0), 0.5).item()
    (19.0, 2.0)
    """
    # A hair less: (19 + 1) * 0.95 must not become the 20th by rounding.
    rank = math.ceil((len(values) + 1) * share - 1e-9)
    return values.sort().values[min(rank, len(values)) - 1]


def check_share(name: str, value: float) -> None:
    """:raises InputError: unless it lies between 0 and 1."""
    if not 0 < value < 1:
        raise InputError(f"{name} is a share between 0 and 1, not {value}")


def check_count(name: str, value: int) -> None:
    """:raises InputError: unless it is at least 1."""
    if value < 1:
        raise InputError(f"{name} is at least 1, not {value}")
