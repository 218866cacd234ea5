"""The nearest class prototype."""

from __future__ import annotations

import torch

from avalanche_vlm._generators import generators_kept
from avalanche_vlm.errors import InputError
from avalanche_vlm.models.routers.calibrated import CalibratedRouter, TaskParts
from avalanche_vlm.models.routers.calibration import check_count
from avalanche_vlm.models.routers.registry import register_router


@register_router("prototype")
class PrototypeRouter(CalibratedRouter):
    """Nearest class prototype under a covariance shared within each task (Lee et al., arXiv 1807.03888, eq. 2).

    A task's distance to a sample is half the smallest squared Mahalanobis distance to its prototypes, plus half the
    logarithm of the covariance's determinant: the negative log-likelihood of the nearest class, without a constant.
    The paper has one covariance for all classes, where the determinant does not matter.

    :param quantile: share of a task's own samples that the threshold lets in, in (0, 1).
    :param shrinkage: weight of the scaled identity in the covariance, in (0, 1].
    :param max_prototypes: tasks with more classes (or with captions in their place) get this many k-means centres.
    :raises InputError: if an option is out of its range.
    """

    parts = ("whiten", "log_determinants", "prototypes", "counts")

    def __init__(self, quantile: float = 0.95, shrinkage: float = 0.1, max_prototypes: int = 64) -> None:
        super().__init__(quantile)
        if not 0 < shrinkage <= 1:
            raise InputError(f"shrinkage is a share above 0 and up to 1, not {shrinkage}")
        check_count("max_prototypes", max_prototypes)
        self.shrinkage = shrinkage
        self.max_prototypes = max_prototypes

    def _learn(self, features: torch.Tensor, labels: torch.Tensor) -> TaskParts:
        features = features.double()
        prototypes, index = class_prototypes(features, labels, self.max_prototypes)
        residuals = features - prototypes[index]
        covariance = residuals.T @ residuals / len(residuals)
        spread = covariance.diagonal().mean().clamp_min(1e-8)
        covariance = (1 - self.shrinkage) * covariance
        covariance.diagonal().add_(self.shrinkage * spread)
        factor = torch.linalg.cholesky(covariance)
        whiten = torch.linalg.inv(factor).T
        return {
            "whiten": whiten[None].float(),
            "log_determinants": factor.diagonal().log().sum()[None].float(),
            "prototypes": (prototypes @ whiten).float(),
            "counts": torch.tensor([len(prototypes)], device=features.device),
        }

    def _measure(self, features: torch.Tensor, parts: TaskParts) -> torch.Tensor:
        own = parts["prototypes"].split(parts["counts"].tolist())
        nearest = [
            # The direct form: the expanded one cancels, and its rounding depends on the batch.
            torch.cdist(features @ whiten, some, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
            for whiten, some in zip(parts["whiten"], own, strict=True)
        ]
        return 0.5 * torch.stack(nearest, 1).square() + parts["log_determinants"]


def class_prototypes(
    features: torch.Tensor, labels: torch.Tensor, max_prototypes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The classes' means ``[P, D]``, and which one each sample has helped to form ``[N]``.

    More classes than ``max_prototypes``, or fewer than two samples to a class on average (captions), and k-means
    centres take the place of the means: one for ten samples, up to that number.

    :param features: features of one task ``[N, D]``.
    :param labels: class or caption ids ``[N]``.
    """
    _, index = torch.unique(labels, return_inverse=True)
    classes = int(index.max()) + 1
    if classes > max_prototypes or classes > len(features) // 2:
        distinct = len(torch.unique(features, dim=0))
        clusters = min(max_prototypes, max(1, len(features) // 10), distinct)
        with generators_kept():  # scikit-learn draws when it is imported, once in every process
            from sklearn.cluster import KMeans

            fitted = KMeans(clusters, n_init=1, random_state=0).fit(features.cpu().numpy())
        index = torch.from_numpy(fitted.labels_).long().to(features.device)
        classes = clusters
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, index, features)
    return sums / torch.bincount(index, minlength=classes).clamp_min(1)[:, None], index
