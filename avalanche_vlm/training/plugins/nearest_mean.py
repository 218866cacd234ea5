"""Classification by the nearest mean of exemplars."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import ExemplarMemory, StoredBytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.nearest_mean import NearestMeanHead
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy


class NearestMeanPlugin(VLMPlugin):
    """Give the model a nearest-mean head, and its means anew after every experience.

    Put it after the plugin that fills the memory: the means are those of what is then stored, under the encoder as it
    then stands (iCaRL, arXiv 1611.07725, algorithm 1).

    :param model: gets the head.
    :param memory: the exemplars.
    :raises InputError: if the model has another head already.
    """

    def __init__(self, model: VLM, memory: ExemplarMemory) -> None:
        super().__init__()
        if model.class_head is not None:
            raise InputError("the model has a class head already: nearest means need a plain zero-shot model")
        self.memory = memory
        self.head = NearestMeanHead(float(model.scale))
        model.class_head = self.head

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if isinstance(strategy.experience.dataset.eval()[0][0], ImageText):
            raise InputError("nearest means of exemplars need a class-labelled stream; this one has image-text pairs")

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        model: VLM = strategy.model
        features, labels = [], []
        with model.evaluating():
            for part in self.memory.chunks():
                images = model.transforms.eval.from_uint8(part["pixels"].to(model.device))
                features.append(model.encode_image(images))
                labels.append(part["y"].to(model.device))
            self.head.fit(torch.cat(features), torch.cat(labels), len(model.label_space))

    def stored(self) -> StoredBytes:
        return self.head.stored()
