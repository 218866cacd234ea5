"""Which samples stay: pure functions on keys, groups and features.

Every sample has a key, and smaller keys stay. A policy is what the key means (a random number, a herding rank, a
retrieval margin) and whether groups (classes, tasks) share the budget evenly.
"""

from __future__ import annotations

import torch


def keep(
    keys: torch.Tensor,
    sizes: torch.Tensor,
    budget: int,
    groups: torch.Tensor | None = None,
    quotas: bool = False,
) -> torch.Tensor:
    """The samples that fit a budget, smallest keys first.

    With ``groups`` the smallest key of every group comes first, then the second of every group, and so on: groups
    share the budget evenly, and what small groups leave over goes to the others. Where sizes are equal, choosing among
    what was chosen before and what is new is choosing among everything: a stream may come in any parts.

    :param keys: ``[n]``, ties are broken by position.
    :param sizes: int64 ``[n]``, what each costs of the budget.
    :param budget: what all of them may cost, in the unit of ``sizes``; a sample that is larger is passed over.
    :param groups: ``[n]`` class or task ids; None treats all alike.
    :param quotas: whether, with groups, no group takes more than its even share of the budget, whatever the others
        leave over: with unit sizes the quota of iCaRL (arXiv 1611.07725, alg. 2), budget divided by the number of
        groups. A budget of less than one sample per group is shared as without.
    :return: indices in ascending order.

    >>> keys, ones = torch.tensor([0.3, 0.1, 0.2, 0.9]), torch.ones(4, dtype=torch.long)
    >>> keep(keys, ones, 3).tolist(), keep(keys, ones, 3, torch.tensor([0, 0, 0, 1])).tolist()
    ([0, 1, 2], [1, 2, 3])
    >>> keep(keys, ones, 3, torch.tensor([0, 0, 0, 1]), quotas=True).tolist()
    [1, 3]
    """
    # What alone is over the budget would stop all that comes after it.
    order = keys.argsort(stable=True)
    order = order[sizes[order] <= budget]
    if groups is None or len(order) == 0:
        return order[sizes[order].cumsum(0) <= budget].sort().values
    if quotas:
        by_group = order[groups[order].argsort(stable=True)]
        counts = torch.unique_consecutive(groups[by_group], return_counts=True)[1]
        taken = sizes[by_group].cumsum(0)
        before = torch.nn.functional.pad(taken[counts.cumsum(0) - 1][:-1], (1, 0))
        fits = taken - torch.repeat_interleave(before, counts) <= budget // len(counts)
        if bool(fits.any()):
            return by_group[fits].sort().values
    order = order[_rank_within(groups[order]).argsort(stable=True)]
    return order[sizes[order].cumsum(0) <= budget].sort().values


def random_keys(n: int, generator: torch.Generator) -> torch.Tensor:
    """Keys in [0, 1) that make the smallest a uniform sample: float32 ``[n]``.

    Single draws of torch's are multiples of 2^-24, so that the smallest of many millions would tie, and ties favour
    what came first. Small keys have bits to spare for a second draw.
    """
    coarse, fine = torch.rand(n, generator=generator), torch.rand(n, generator=generator)
    return (coarse.double() + fine.double() * 2.0**-24).float()


def _rank_within(groups: torch.Tensor) -> torch.Tensor:
    """How many earlier entries belong to the same group."""
    by_group = groups.argsort(stable=True)
    counts = torch.bincount(torch.unique(groups, return_inverse=True)[1])
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rank = torch.empty_like(by_group)
    rank[by_group] = torch.arange(len(groups), device=groups.device) - starts
    return rank


def herding_ranks(features: torch.Tensor, groups: torch.Tensor, limit: int | None = None) -> torch.Tensor:
    """The order in which herding takes the samples of each group (Welling 2009; iCaRL, arXiv 1611.07725, alg. 4).

    Each step takes the sample that brings the mean of those taken closest to the mean of the group, so the first m
    represent the group's mean better than m random samples, for every m.

    :param features: features of unit length ``[N, D]``.
    :param groups: class or other group of each sample ``[N]``.
    :param limit: stop after this many of each group; the rest gets infinity.
    :return: ``[N]`` rank within the group, from 0, as float32.

    >>> features = torch.tensor([[0.0], [1.0], [0.4], [-9.0]])
    >>> herding_ranks(features, torch.tensor([0, 0, 0, 1])).tolist()
    [2.0, 1.0, 0.0, 0.0]
    """
    ranks = torch.full((len(features),), torch.inf)
    for group in groups.unique():
        (members,) = (groups == group).nonzero(as_tuple=True)
        x = features[members].double()
        mean, total = x.mean(0), torch.zeros_like(x[0])
        taken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for step in range(min(len(x), limit or len(x))):
            distance = ((total + x) / (step + 1) - mean).square().sum(1)
            chosen = int(distance.masked_fill(taken, torch.inf).argmin())
            taken[chosen] = True
            total = total + x[chosen]
            ranks[members[chosen]] = step
    return ranks


def retrieval_margins(similarities: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How safely each image finds its own text: its similarity to it, less that to the best other text.

    Negative where retrieval fails. Small margins are the samples that are hardest to retrieve (and, in noisy data, the
    mislabelled ones).

    :param similarities: images in rows, texts in columns ``[B, N]``.
    :param right: bool ``[B, N]``: which texts are the image's own, at least one each.
    :return: ``[B]``, in the unit of the similarities; infinite where there is no other text.

    >>> retrieval_margins(torch.tensor([[0.75, 0.25], [0.5, 0.25]]), torch.eye(2).bool()).tolist()
    [0.5, -0.25]
    """
    own = similarities.masked_fill(~right, -torch.inf).amax(1)
    return own - similarities.masked_fill(right, -torch.inf).amax(1)
