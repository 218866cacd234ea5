"""Classification by the nearest mean of exemplars."""

from __future__ import annotations

from typing import Any, ClassVar

from avalanche_vlm.benchmarks.label_space import TrainClasses
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.memory.state import IN_MODEL
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.nearest_mean import NearestMeanHead
from avalanche_vlm.training.data import rows_of_batches
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of, refuse_pairs


class NearestMeanPlugin(VLMPlugin, supports_distributed=True):
    """Give the model a nearest-mean head, and its means anew after every experience.

    Put it after the plugin that fills the memory, and whose state the memory is: the means are those of what is then
    stored, under the encoder as it then stands (iCaRL, arXiv 1611.07725, algorithm 1).

    :param model: the model that the strategy trains; it gets the head.
    :param memory: memory of the exemplars.
    :raises InputError: if another method has the model's class head or its image path.
    """

    states: ClassVar = {"head": IN_MODEL}
    train_classes: TrainClasses | None = "seen"

    def __init__(self, model: VLM, memory: ExemplarMemory) -> None:
        super().__init__()
        self.memory = memory
        self.head = NearestMeanHead(float(model.scale))
        model.install("class_head", self.head, "a nearest-mean head")

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        refuse_pairs(strategy, "a nearest-mean head")

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        model = model_of(strategy)
        assert model.label_space is not None  # Avalanche's adaptation to a class-labelled experience has set it
        with model.evaluating():
            parts = (
                (
                    model.encode_image(model.transforms.eval.from_uint8(part["pixels"].to(model.device))),
                    part["y"].to(model.device),
                )
                for part in self.memory.chunks()
            )
            features, y = rows_of_batches(parts, len(self.memory))
            self.head.fit(features, y, len(model.label_space))
