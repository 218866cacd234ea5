"""Averages and interpolations of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from avalanche_vlm.compat.tensors import copy_each_, lerp_each_

State = dict[str, torch.Tensor]


def like(state: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Tensors in the order, and of the kinds and devices, of others; those that are of one kind are not copied.

    :param state: tensors with at least the other's names.
    :param other: the tensors whose names, kinds and devices are taken.

    >>> like({"a": torch.ones(1), "b": torch.zeros(1)}, {"b": torch.zeros(1, dtype=torch.float64)})
    [tensor([0.], dtype=torch.float64)]
    """
    return [state[name].detach().to(tensor) for name, tensor in other.items()]


@torch.no_grad()
def snapshot(state: Mapping[str, Any]) -> State:
    """A copy of the tensors, cut from the graph; what a state dict has besides tensors is left out."""
    return {name: part.detach().clone() for name, part in state.items() if isinstance(part, torch.Tensor)}


def snapshot_due(updates: int, interval: int, first: int = 1) -> bool:
    """Whether a snapshot is taken after this update: after ``first``, and every ``interval`` updates from there on.

    ZSCL's code (arXiv 2303.06628) counts its iterations from 0 and takes one after each whose number ``interval``
    divides, which is after the updates 1, 101, ..., 1001 of its 1001: the default. Equation 8 of the paper has
    ``first`` equal to the interval.

    :param updates: number of updates so far, 1 or more.
    :param interval: updates between two snapshots, at least 1.
    :param first: number of the update after which the first one is taken, at least 1.

    >>> due = [update for update in range(1, 1002) if snapshot_due(update, 100)]
    >>> len(due), due[:3], due[-1]
    (11, [1, 101, 201], 1001)
    >>> [update for update in range(1, 10) if snapshot_due(update, 4, first=4)]
    [4, 8]
    """
    return updates >= first and (updates - first) % interval == 0


@torch.no_grad()
def update_running_mean(mean: State, state: Mapping[str, torch.Tensor], count: int) -> None:
    """Take one more snapshot into the arithmetic mean of ``count`` snapshots, in place.

    This is ZSCL's weight ensemble (arXiv 2303.06628, eq. 8): after k calls with counts 1..k the mean is that of
    k + 1 snapshots, the starting point among them.

    :param mean: the mean so far; changed.
    :param state: the new snapshot, with at least the mean's names.
    :param count: how many snapshots ``mean`` holds, at least 1.

    >>> mean = {"w": torch.tensor([0.0])}
    >>> for count, value in enumerate((3.0, 6.0), start=1):
    ...     update_running_mean(mean, {"w": torch.tensor([value])}, count)
    >>> mean["w"].item()
    3.0
    """
    lerp_each_(list(mean.values()), like(state, mean), 1 / (count + 1))


@torch.no_grad()
def interpolate(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], weight: float) -> State:
    """``(1 - weight) * start + weight * end`` (WiSE-FT, arXiv 2109.01903, eq. 1).

    :param weight: 0 gives ``start``, 1 gives ``end``.

    >>> interpolate({"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}, 0.25)["w"].item()
    1.0
    """
    return {name: torch.lerp(tensor, end[name], weight) for name, tensor in start.items()}


@torch.no_grad()
def copy_into(target: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Copy ``state`` into the tensors of ``target`` that it names, in place."""
    copy_each_([target[name] for name in state], list(state.values()))
