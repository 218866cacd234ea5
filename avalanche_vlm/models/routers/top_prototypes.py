"""The most similar class prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from avalanche_vlm.models.routers.calibrated import CalibratedRouter, TaskParts
from avalanche_vlm.models.routers.calibration import check_count
from avalanche_vlm.models.routers.prototype import class_prototypes
from avalanche_vlm.models.routers.registry import register_router


@register_router("top-prototypes")
class TopPrototypesRouter(CalibratedRouter):
    """Mean cosine similarity to the ``top`` most similar class prototypes of a task (after ConDU, arXiv 2503.10705).

    A task's distance to a sample is one minus that mean. ``top = 1`` is the order in which ConDU's code ranks its task
    experts; it then averages the logits of the pretrained model and the K first experts, and knows no threshold.

    :param quantile: share of a task's own samples that the threshold lets in, in (0, 1).
    :param top: how many prototypes; all of a task that has fewer.
    :param max_prototypes: tasks with more classes (or with captions in their place) get this many k-means centres.
    :raises InputError: if an option is out of its range.
    """

    parts = ("prototypes", "counts")

    def __init__(self, quantile: float = 0.95, top: int = 1, max_prototypes: int = 64) -> None:
        super().__init__(quantile)
        check_count("top", top)
        check_count("max_prototypes", max_prototypes)
        self.top = top
        self.max_prototypes = max_prototypes

    def _learn(self, features: torch.Tensor, labels: torch.Tensor) -> TaskParts:
        prototypes, _ = class_prototypes(features, labels, self.max_prototypes)
        counts = torch.tensor([len(prototypes)], device=features.device)
        return {"prototypes": F.normalize(prototypes, dim=1), "counts": counts}

    def _measure(self, features: torch.Tensor, parts: TaskParts) -> torch.Tensor:
        similarities = (F.normalize(features, dim=1) @ parts["prototypes"].T).split(parts["counts"].tolist(), dim=1)
        best = [some.topk(min(self.top, some.shape[1]), dim=1).values.mean(1) for some in similarities]
        return 1 - torch.stack(best, 1)
