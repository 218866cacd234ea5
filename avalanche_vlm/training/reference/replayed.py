"""Exemplars of earlier tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.memory.exemplars import ExemplarMemory
from avalanche_vlm.memory.mixtures import Mixture, check_mixture
from avalanche_vlm.models import VLM
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.reference.base import Inputs, Lifetime


class ReplayedBatch:
    """Pictures of a memory that a replay plugin fills, with their captions or their classes' prompts, each once.

    Only the comparison with the teacher is on them: to train on them as well, the replay plugin does.

    :param model: its transforms read the stored pixels.
    :param memory: as :class:`~avalanche_vlm.training.plugins.ExemplarReplayPlugin` fills it; nothing is compared while
        it is empty.
    :param batch_size: pictures per iteration.
    :param mixture: over past experiences.
    """

    lifetime: Lifetime = "batch"

    def __init__(self, model: VLM, memory: ExemplarMemory, batch_size: int = 64, mixture: Mixture = "uniform") -> None:
        check_mixture(mixture)
        self.memory = memory
        self.batch_size, self.mixture = batch_size, mixture
        self._transform = model.transforms.eval

    def start(self, strategy: Any) -> None:
        return

    def chunks(self, size: int = 256) -> Iterator[Inputs]:
        return iter(())

    def next(self, strategy: Any, forward: ForwardFeatures) -> Inputs | None:
        if len(self.memory) == 0:
            return None
        old = {
            name: part.to(strategy.device) for name, part in self.memory.sample(self.batch_size, self.mixture).items()
        }
        images = self._transform.from_uint8(old["pixels"])
        if "tokens" in old:
            tokens, text_of_image = torch.unique(old["tokens"], dim=0, return_inverse=True)
            return Inputs(images, Prompts(tokens), text_of_image)
        model: VLM = strategy.model
        classes, text_of_image = old["y"].unique(return_inverse=True)
        return Inputs(images, model.prompts(classes), text_of_image, text_rows=classes)

    def end(self) -> None:
        return

    def stored(self) -> StoredBytes:
        return StoredBytes()  # the memory counts where it is filled
