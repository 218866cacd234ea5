"""Classes as points, or as Gaussians of one shape: the nearest class mean and linear discriminant analysis."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.heads.analytic.base import Estimator, grown


class ClassSums(Estimator):
    """Base of the estimators on class means: sums ``[C, D]`` and counts ``[C]`` of each class's features."""

    def __init__(self, precision: str) -> None:
        super().__init__(precision)
        self.register_buffer("sums", torch.zeros(0, 0, dtype=self.dtype))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.long))

    @property
    def width(self) -> int:
        return self.sums.shape[1]

    @property
    def means(self) -> torch.Tensor:
        """``[C, D]``, zero for classes that are not known."""
        return self.sums / self.counts.clamp_min(1)[:, None]

    def update(self, features: torch.Tensor, y: torch.Tensor) -> None:
        classes = len(self.known)
        sums = self.sums.to(features) if len(self.sums) else features.new_zeros(0, features.shape[1])
        self.sums = grown(sums, classes, dim=0).index_add(0, y, features)
        self.counts = grown(self.counts.to(y.device), classes) + torch.bincount(y, minlength=classes)

    @staticmethod
    def probabilities(logits: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        """Softmax over the classes that compete ``[B, C]``, 0 for the others."""
        return logits.masked_fill(~competes, -torch.inf).softmax(1)


class NearestClassMean(ClassSums):
    """SimpleCIL: cosines with the mean feature of each class (Zhou et al., arXiv 2303.07338).

    The mean of a class that comes again is that of all its samples. The estimates are a softmax of the scaled cosines.

    Differs from the authors' code: means are of unit-length features, and cosines have the model's own scale instead
    of none, which changes no answer.

    :param scale: of the cosines.
    :param precision: as for :class:`Estimator`.
    """

    def __init__(self, scale: float = 100.0, *, precision: str = "float64") -> None:
        super().__init__(precision)
        self.scale = scale

    def estimate(self, features: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        cosines = F.normalize(features, dim=1) @ F.normalize(self.sums, dim=1).T
        return self.probabilities(self.scale * cosines, competes)


class LinearDiscriminant(ClassSums):
    """Gaussians with one covariance for all classes and equal priors (streaming LDA, Hayes and Kanan, arXiv 1909.01520,
    computed from sums instead of one sample after another).

    The covariance is that within the classes of all experiences. It is shrunk towards the identity times its mean
    variance, where the paper takes 1e-4 of the identity itself: unit-length features have variances of about 1 / D.

    :param shrinkage: weight of the scaled identity, in (0, 1].
    :param precision: as for :class:`Estimator`.
    """

    def __init__(self, shrinkage: float = 0.1, *, precision: str = "float64") -> None:
        super().__init__(precision)
        if not 0 < shrinkage <= 1:
            raise InputError(f"the shrinkage is above 0 and at most 1, not {shrinkage}")
        self.shrinkage = shrinkage
        self.register_buffer("moments", torch.zeros(0, 0, dtype=self.dtype))
        """Sum of the outer products of all features with themselves ``[D, D]``."""
        self.register_buffer("coefficients", torch.zeros(0, 0, dtype=self.dtype))
        self.register_buffer("intercepts", torch.zeros(0, dtype=self.dtype))

    def update(self, features: torch.Tensor, y: torch.Tensor) -> None:
        super().update(features, y)
        if not len(self.moments):
            self.moments = features.new_zeros(self.width, self.width)
        self.moments = self.moments.addmm(features.T, features)
        means = self.means
        n = self.counts.sum()
        within = (self.moments - self.sums.T @ means) / n
        # Of one sample per class nothing is left but rounding, and the nearest mean is to decide.
        spread = within.diagonal().mean().clamp_min(1e-6 * self.moments.diagonal().mean() / n)
        covariance = (1 - self.shrinkage) * within
        covariance.diagonal().add_(self.shrinkage * spread)
        self.coefficients = torch.linalg.solve(covariance, means.T).T.contiguous()
        self.intercepts = -0.5 * (self.coefficients * means).sum(1)

    def estimate(self, features: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        return self.probabilities(features @ self.coefficients.T + self.intercepts, competes)
