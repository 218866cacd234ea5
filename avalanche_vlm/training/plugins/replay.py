"""Replay of exemplars."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.memory import ExemplarMemory, StoredBytes
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins.data import experience_batches, images_of


class ExemplarReplayPlugin(SupervisedPlugin):
    """Append exemplars of past experiences to every training minibatch.

    Works on class-labelled and on image-text streams, task-aware or not: a replayed sample keeps its task label, so
    under the label space ``"task"`` it competes among its own task's classes.

    :param model: its transform maps stored pixels to inputs.
    :param memory: what is kept.
    :param batch_size: replayed samples per iteration (fewer while the memory holds fewer).
    """

    supports_distributed = False

    def __init__(self, model: VLM, memory: ExemplarMemory, batch_size: int = 64) -> None:
        super().__init__()
        self.transform = model.transforms.eval
        self.memory = memory
        self.batch_size = batch_size

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        if len(self.memory) == 0:
            return
        old = self.memory.sample(self.batch_size)
        images = self.transform.from_uint8(old["pixels"].to(strategy.device))
        x = ImageText(images, old["tokens"].to(strategy.device)) if "tokens" in old else images
        strategy.mbatch[0] = torch.cat([strategy.mbatch[0], x])
        strategy.mbatch[1] = torch.cat([strategy.mbatch[1], old["y"].to(strategy.device)])
        strategy.mbatch[-1] = torch.cat([strategy.mbatch[-1], old["task"].to(strategy.device)])

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        for x, y, task_labels in experience_batches(strategy):
            pixels = self.transform.to_uint8(images_of(x))
            self.memory.add(pixels, y, task_labels, x.tokens if isinstance(x, ImageText) else None)

    def stored(self) -> StoredBytes:
        return self.memory.stored()
