"""Parameter-efficient adaptation (PEA)."""

from __future__ import annotations

from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.routers import PrototypeRouter
from avalanche_vlm.training.plugins import ModulePerTaskPlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe


@recipe("lora", family="PEA")
def lora(
    model: VLM, *, rank: int = 8, alpha: float | None = None, quantile: float = 0.95, shrinkage: float = 0.1
) -> Plugins:
    """One LoRA per task on a frozen image tower (Hu et al., arXiv 2106.09685), chosen by a prototype router, so that
    no task id is needed; what belongs to no task is left to the pretrained model.

    :param rank: of every module.
    :param alpha: scale times rank; the rank by default.
    :param quantile: share of a task's own samples that its border lets in.
    :param shrinkage: of the router's covariance.
    """
    layers = inject_lora(model.tower("image"), rank=rank, alpha=alpha)
    return [ModulePerTaskPlugin(model, named("image", layers), PrototypeRouter(quantile, shrinkage))]
