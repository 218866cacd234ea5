"""The nearest k-means centre."""

from __future__ import annotations

from typing import Literal

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.density_fit import fit_density
from avalanche_vlm.models.routers.calibrated import CalibratedRouter, TaskParts
from avalanche_vlm.models.routers.calibration import check_count
from avalanche_vlm.models.routers.registry import register_router


@register_router("kmeans")
class KMeansRouter(CalibratedRouter):
    """Nearest of a few k-means centres per task, whatever the classes (S-Prompts, Wang et al., arXiv 2207.12819).

    The paper speaks of the nearest centre, its code sums absolute differences: the default follows the code. Neither
    has a threshold.

    :param quantile: share of a task's own samples that the threshold lets in, in (0, 1).
    :param centres: number of centres per task, at least 1.
    :param metric: ``"l1"`` or ``"l2"``. The centres are means either way.
    :param seed: seed of the clustering, 0 or more.
    :raises InputError: if an option is out of its range.
    """

    parts = ("centres",)

    def __init__(
        self, quantile: float = 0.95, centres: int = 5, metric: Literal["l1", "l2"] = "l1", seed: int = 0
    ) -> None:
        super().__init__(quantile)
        check_count("centres", centres)
        if metric not in ("l1", "l2"):
            raise InputError(f"metric is 'l1' or 'l2', not {metric!r}")
        self.clusters = centres
        self.metric = metric
        self.seed = seed

    def _learn(self, features: torch.Tensor, labels: torch.Tensor) -> TaskParts:
        fitted = fit_density(features, "kmeans", components=self.clusters, spread=False, seed=self.seed)
        centres = fitted.means[0]
        # Fewer distinct samples than centres: a centre more than once is no nearer.
        centres = torch.where(fitted.weights[0][:, None] > 0, centres, centres[:1])
        return {"centres": centres[None].to(features.device)}

    def _measure(self, features: torch.Tensor, parts: TaskParts) -> torch.Tensor:
        centres = parts["centres"]
        # The direct form: the expanded one cancels, and its rounding depends on the batch.
        distances = torch.cdist(
            features,
            centres.flatten(0, 1),
            p=1.0 if self.metric == "l1" else 2.0,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        return distances.unflatten(1, centres.shape[:2]).amin(2)
