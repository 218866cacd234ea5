"""One LoRA module per task, routed at prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.memory import StoredBytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import DEFAULT_PATTERN, inject_lora
from avalanche_vlm.models.pool import ModulePool, RoutedPool
from avalanche_vlm.models.routers import PrototypeRouter
from avalanche_vlm.training.data import experience_batches, images_of


class LoRAPerTaskPlugin(SupervisedPlugin):
    """Freeze the VLM, learn a module of the image tower per experience, and a router that needs no task id.

    The text tower is untouched, so every task's prompts and every held-out caption keep their features. A sample that
    the router places in no known task is answered by the pretrained model itself.

    :param model: adapted in place at construction: towers frozen, layers injected, image path set.
    :param rank: inner width.
    :param alpha: scale times rank; the rank by default.
    :param pattern: which layers of the image tower, by name.
    :param parts: which projections of attention, of q, k, v, out.
    :param router: fitted on the plain features of every experience after it was trained.
    """

    supports_distributed = False

    def __init__(
        self,
        model: VLM,
        *,
        rank: int = 8,
        alpha: float | None = None,
        pattern: str = DEFAULT_PATTERN,
        parts: Sequence[str] = ("q", "k", "v", "out"),
        router: PrototypeRouter | None = None,
    ) -> None:
        super().__init__()
        model.freeze("image", "text", "scale")
        layers = inject_lora(model.clip.visual, rank=rank, alpha=alpha, pattern=pattern, parts=parts)
        self.pool = ModulePool(layers)
        self.router = router or PrototypeRouter()
        model.image_path = RoutedPool(self.pool, self.router).train(model.training)

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        # Before Avalanche rebuilds the optimizer, which is how the new parameters get into it.
        self.pool.add(f"task_{len(self.pool)}")

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        model: VLM = strategy.model
        features, labels = [], []
        with self.pool.using(None):
            for x, y, _ in experience_batches(strategy):
                features.append(model.encode_image_plain(images_of(x)))
                labels.append(y)
        self.router.fit(torch.cat(features), torch.cat(labels))

    def stored(self) -> StoredBytes:
        return StoredBytes(ram=self.pool.nbytes()) + self.router.stored()
