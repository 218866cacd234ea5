"""One module per task, routed at prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import StoredBytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.routed import RoutedPool
from avalanche_vlm.models.modules.site import Site
from avalanche_vlm.models.routers import Router
from avalanche_vlm.training.data import experience_batches, images_of
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy


class ModulePerTaskPlugin(VLMPlugin):
    """Freeze the VLM, learn a module per experience, and fit a router that needs no task id.

    A sample that the router places in no known task is answered by the pretrained model itself, so with image modules
    alone every task's prompts and every held-out caption keep their features.

    :param model: adapted in place at construction: towers frozen, samples routed.
    :param sites: where the modules act, in the model's towers, by ``image.`` or ``text.`` and a name.
    :param router: fitted on the plain tower's features of every experience after it was trained.
    :raises InputError: if the model's samples are routed already, or take another way.
    """

    def __init__(self, model: VLM, sites: Mapping[str, Site], router: Router) -> None:
        super().__init__()
        if model.detour is not None:
            raise InputError(
                f"the model's image path is taken by {type(model.detour).__name__}: modules per task need it"
            )
        model.freeze("image", "text", "scale")
        self.pool = ModulePool(sites)
        self.router = router
        model.routed = RoutedPool(self.pool, router).train(model.training)

    def prepare_parameters(self, strategy: Strategy) -> None:
        name = f"task_{len(self.pool)}"
        self.pool.add(name)
        strategy.model.routed.of_label |= dict.fromkeys(strategy.experience.task_labels, name)

    @torch.no_grad()
    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        model: VLM = strategy.model
        features, labels = [], []
        with self.pool.using(None):
            for x, y, _ in experience_batches(strategy):
                features.append(model.encode_image_plain(images_of(x)))
                labels.append(y)
        model.routed.learn(self.pool.current, torch.cat(features), torch.cat(labels))

    def stored(self) -> StoredBytes:
        return StoredBytes(ram=self.pool.nbytes()) + self.router.stored()
