"""Classes as points: sums of their features, and the nearest class mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm.models.heads.analytic.base import Estimator, widened


class ClassSums(Estimator):
    """Base of the estimators on class means: sums ``[C, D]`` and counts ``[C]`` of each class's features."""

    sums: torch.Tensor
    counts: torch.Tensor

    def __init__(self, precision: str) -> None:
        super().__init__(precision)
        self.register_buffer("sums", torch.zeros(0, 0, dtype=self.dtype))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.long))

    @property
    def width(self) -> int:
        """Numbers per feature, 0 before the first."""
        return self.sums.shape[1]

    @property
    def means(self) -> torch.Tensor:
        """``[C, D]``, zero for classes that are not known."""
        return self.sums / self.counts.clamp_min(1)[:, None]

    def update(self, features: torch.Tensor, y: torch.Tensor) -> None:
        classes = len(self.known)
        sums = self.sums.to(features) if len(self.sums) else features.new_zeros(0, features.shape[1])
        self.sums = widened(sums, classes, dim=0).index_add(0, y, features)
        self.counts = widened(self.counts.to(y.device), classes) + torch.bincount(y, minlength=classes)

    @staticmethod
    def probabilities(logits: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        """Softmax over the classes that compete ``[B, C]``, 0 for the others."""
        return logits.masked_fill(~competes, -torch.inf).softmax(1)


class NearestClassMean(ClassSums):
    """SimpleCIL: cosines with the mean feature of each class (Zhou et al., arXiv 2303.07338).

    The mean of a class that comes again is that of all its samples. The estimates are a softmax of the scaled cosines.

    Differs from the authors' code: means are of unit-length features, and cosines have the model's own scale instead
    of none, which changes no answer.

    :param scale: factor of the cosines in the softmax.
    :param precision: precision of the state, ``"float64"`` or ``"float32"``.
    """

    def __init__(self, scale: float = 100.0, *, precision: str = "float64") -> None:
        super().__init__(precision)
        self.scale = scale

    def estimate(self, features: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        """A softmax of scaled cosines ``[B, C]``."""
        cosines = F.normalize(features, dim=1) @ F.normalize(self.sums, dim=1).T
        return self.probabilities(self.scale * cosines, competes)
