"""Features of the test pairs, as the forward pass of the evaluation has computed them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.zero_shot import encode_pairs
from avalanche_vlm.memory.state import TRANSIENT, Declared
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.training.plugins.taps import Tap
from avalanche_vlm.training.protocol import Strategy, model_of


class PairFeaturesMetric(VLMMetric):
    """Base of metrics on pairs that need features of all of a task's images and texts: the batches are encoded once,
    by the strategy, for all of them."""

    states: ClassVar[Mapping[str, Declared]] = {"_tap": TRANSIENT}

    def __init__(self) -> None:
        super().__init__()
        self._tap: Tap[ForwardFeatures] = Tap()

    def before_eval_forward(self, strategy: Strategy) -> None:
        if isinstance(strategy.mb_x, ImageText):
            self._tap.arm(model_of(strategy).taps)

    def after_eval_forward(self, strategy: Strategy) -> None:
        self._tap.close(model_of(strategy).taps)

    def after_eval(self, strategy: Strategy) -> None:
        self._tap.disarm(model_of(strategy).taps)

    def pair_features(self, strategy: Strategy) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit-length features of the images and texts of the batch that is evaluated, each ``[B, D]``.

        :param strategy: the strategy, after its forward pass; one that has made none of the model's own has the batch
            encoded now.
        """
        seen = self._tap.seen
        if seen is None or seen.texts is None or seen.text_of_image is None:
            return encode_pairs(model_of(strategy), strategy.mb_x, strategy.mb_task_id)
        return seen.images, seen.texts[seen.text_of_image]
