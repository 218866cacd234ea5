"""Routers: which task's module a sample needs, and whether it needs none."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import nn

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes


class Route(NamedTuple):
    """A router's answer, per sample.

    :param task: int64 ``[B]``, index of the nearest task.
    :param confidence: ``[B]`` in (0, 1]: softmax over the tasks' negative distances.
    :param is_out_of_distribution: bool ``[B]``: nearer to no task than that task's own data are.
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

    def stored(self) -> StoredBytes: ...


class PrototypeRouter(nn.Module):
    """Nearest class prototype under a covariance shared within each task (Lee et al., arXiv 1807.03888, eq. 2).

    A task's distance to a sample is the smallest squared Mahalanobis distance to its prototypes, divided by the
    quantile of the same distance on features of that task that were kept out of the fit. So 1 is the border of every
    task alike, and beyond it a sample is out of distribution. Samples are scored one by one: nothing depends on the
    batch.

    :param quantile: share of a task's own samples that the border lets in, in (0, 1).
    :param shrinkage: weight of the scaled identity in the covariance, in (0, 1].
    :param max_prototypes: tasks with more classes (or with captions in their place) get this many k-means centres.
    """

    def __init__(self, quantile: float = 0.95, shrinkage: float = 0.1, max_prototypes: int = 64) -> None:
        super().__init__()
        self.quantile = quantile
        self.shrinkage = shrinkage
        self.max_prototypes = max_prototypes
        self._tasks = 0

    def __len__(self) -> int:
        return self._tasks

    @torch.no_grad()
    def fit(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add the next task.

        :param features: unit-length features of the plain tower ``[N, D]``; every fifth sample calibrates the border.
        :param labels: class or caption ids ``[N]``.
        :raises InputError: if there are fewer than ten samples.
        """
        if len(features) < 10:
            raise InputError(f"a router needs at least ten samples of a task, task {self._tasks} has {len(features)}")
        held = torch.arange(len(features), device=features.device) % 5 == 4
        prototypes, residuals = self._prototypes(features[~held].double(), labels[~held])
        covariance = residuals.T @ residuals / len(residuals)
        width = covariance.shape[0]
        spread = covariance.diagonal().mean().clamp_min(1e-8)
        eye = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
        covariance = (1 - self.shrinkage) * covariance + self.shrinkage * spread * eye
        whiten = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        border = torch.quantile(_distance(features[held].double() @ whiten, prototypes @ whiten), self.quantile)
        # One factor whitens and scales, so that the border lies at distance 1.
        whiten = whiten / border.sqrt()
        self.register_buffer(f"whiten_{self._tasks}", whiten.float())
        self.register_buffer(f"prototypes_{self._tasks}", (prototypes @ whiten).float())
        self._tasks += 1

    @torch.no_grad()
    def score(self, features: torch.Tensor) -> Route:
        """Route unit-length features ``[B, D]`` of the plain tower."""
        distances = torch.stack(
            [
                _distance(features @ getattr(self, f"whiten_{t}"), getattr(self, f"prototypes_{t}"))
                for t in range(self._tasks)
            ],
            dim=1,
        )
        nearest, task = distances.min(1)
        confidence = (-distances).softmax(1).gather(1, task[:, None])[:, 0]
        return Route(task, confidence, nearest > 1)

    def stored(self) -> StoredBytes:
        return StoredBytes(ram=tensor_bytes(self.buffers()))

    def _prototypes(self, features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, index = torch.unique(labels, return_inverse=True)
        if int(index.max()) >= self.max_prototypes or int(index.max()) + 1 > len(features) // 2:
            from sklearn.cluster import KMeans

            clusters = min(self.max_prototypes, max(1, len(features) // 10))
            fitted = KMeans(clusters, n_init=1, random_state=0).fit(features.cpu().numpy())
            index = torch.from_numpy(fitted.labels_).long().to(features.device)
        count = int(index.max()) + 1
        sums = features.new_zeros(count, features.shape[1]).index_add_(0, index, features)
        prototypes = sums / torch.bincount(index, minlength=count).clamp_min(1)[:, None]
        return prototypes, features - prototypes[index]


def _distance(features: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Squared distance to the nearest prototype ``[B]``."""
    # The direct form: the expanded one cancels, and its rounding depends on the batch.
    return (features[:, None] - prototypes[None]).square().sum(-1).min(1).values
