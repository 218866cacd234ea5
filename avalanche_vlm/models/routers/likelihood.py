"""The likeliest density."""

from __future__ import annotations

import torch

from avalanche_vlm.memory.densities import Densities, DensityKind, log_prob
from avalanche_vlm.memory.density_fit import Shrinkage, check_shrinkage, fit_density
from avalanche_vlm.models.routers.calibrated import CalibratedRouter, TaskParts
from avalanche_vlm.models.routers.calibration import check_count
from avalanche_vlm.models.routers.registry import register_router


class _DensityRouter(CalibratedRouter):
    """One density per task; its distance is the negative log-likelihood."""

    parts = ("values", "numbers")
    kind: DensityKind

    @torch.no_grad()
    def log_likelihood(self, features: torch.Tensor) -> torch.Tensor:
        """Log density of every sample under every task ``[B, T]``, float32, in nats.

        :param features: ``[B, D]``, as for :meth:`score`.
        :raises InputError: before the first fit.
        """
        return -self._measured(features)

    def _measure(self, features: torch.Tensor, parts: TaskParts) -> torch.Tensor:
        return -log_prob(Densities(self.kind, features.shape[1], parts["values"], parts["numbers"]), features)

    def _packed(self, density: Densities, device: torch.device) -> TaskParts:
        return {"values": density.values.to(device), "numbers": density.numbers.to(device)}


@register_router("gaussian")
class GaussianRouter(_DensityRouter):
    """The likeliest of one Gaussian per task, over all its classes (DIKI, Tang et al., arXiv 2407.05342).

    DIKI adds 1e-7 to the variances; a covariance of fewer samples than dimensions is then almost singular, and shrinks
    here instead. DIKI has no threshold: it weighs its prompts by ``sigmoid(log-likelihood / 512 - 1)`` of the likeliest
    task, for which there is ``log_likelihood``.

    :param quantile: share of a task's own samples that the threshold lets in, in (0, 1).
    :param shrinkage: weight in [0, 1] of the identity times the mean variance in the covariance, or
        ``"ledoit-wolf"`` or ``"oas"``, which estimate it.
    :raises InputError: if an option is out of its range.
    """

    kind = "full"

    def __init__(self, quantile: float = 0.95, shrinkage: Shrinkage = 0.1) -> None:
        super().__init__(quantile)
        check_shrinkage(shrinkage)
        self.shrinkage = shrinkage

    def _learn(self, features: torch.Tensor, labels: torch.Tensor) -> TaskParts:
        return self._packed(fit_density(features, "full", shrinkage=self.shrinkage), features.device)


@register_router("mixture")
class MixtureRouter(_DensityRouter):
    """The likeliest of one Gaussian mixture per task, over all its classes, with diagonal covariances.

    Between k-means, which knows no spreads, and a full Gaussian, which knows no clusters and grows with the square of
    the features' width.

    :param quantile: share of a task's own samples that the threshold lets in, in (0, 1).
    :param components: number of components per task, at least 1.
    :param seed: seed of the fit, 0 or more.
    :raises InputError: if an option is out of its range.
    """

    kind = "gmm"

    def __init__(self, quantile: float = 0.95, components: int = 5, seed: int = 0) -> None:
        super().__init__(quantile)
        check_count("components", components)
        self.components = components
        self.seed = seed

    def _learn(self, features: torch.Tensor, labels: torch.Tensor) -> TaskParts:
        density = fit_density(features, "gmm", components=self.components, seed=self.seed)
        return self._packed(density, features.device)
