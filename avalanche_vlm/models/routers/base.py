"""What a router answers, and what it is asked."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from avalanche_vlm.memory.accounting import StoredBytes


class Route(NamedTuple):
    """A router's answer, per sample.

    :param task: int64 ``[B]``, index of the nearest task, of those whose threshold it is within if there are any.
    :param confidence: ``[B]`` in [0, 1]: that task's share in the softmax over all tasks' negative distances.
    :param is_out_of_distribution: bool ``[B]``: beyond the threshold of every task.
    """

    task: torch.Tensor
    confidence: torch.Tensor
    is_out_of_distribution: torch.Tensor


class Router(Protocol):
    """What places samples: fitted task by task, asked for each sample alone."""

    def __len__(self) -> int:
        """How many tasks it knows."""

    def fit(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the next task.

        :param features: unit-length features of the plain tower ``[N, D]``.
        :param labels: class or caption ids ``[N]``.
        """

    def score(self, features: torch.Tensor) -> Route:
        """Route unit-length features ``[B, D]`` of the plain tower."""

    def stored(self) -> StoredBytes:
        """Bytes of what it keeps of the tasks."""
        ...
