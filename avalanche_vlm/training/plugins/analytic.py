"""Experiences without training: the model as it is, and heads that are computed in its place."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import StoredBytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.feature_cache import FeatureCache
from avalanche_vlm.models.heads.analytic import AnalyticHead
from avalanche_vlm.training.data import experience_batches
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy
from avalanche_vlm.training.strategies import autocast_of


class NoTrainingPlugin(VLMPlugin, supports_distributed=True):
    """Freeze the model and leave every epoch out; what else happens around an experience does happen.

    For as long as an experience lasts the strategy's ``train_epochs`` are 0. Put it before plugins that plan with
    their number.

    :param model: frozen at construction.
    """

    def __init__(self, model: VLM) -> None:
        super().__init__()
        model.freeze("image", "text", "scale")
        self._epochs: int | None = None

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._epochs is None:  # not after an experience that broke off
            self._epochs = strategy.train_epochs
        strategy.train_epochs = 0

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        strategy.train_epochs, self._epochs = self._epochs, None


class AnalyticHeadPlugin(NoTrainingPlugin):
    """Fit a head in closed form, experience by experience, on the features of the frozen image tower.

    No epoch is trained: every experience is encoded once, under its evaluation transforms, and given to the head. The
    towers stay as they were pretrained, and with them what the gate leaves to the zero-shot head.

    :param model: frozen, and given the head, at construction.
    :param head: fitted after every experience.
    :param cache: where features are looked up and kept; without, they are computed and dropped.
    :raises InputError: if the model has another head already, or its images take another way than the tower alone.
    """

    def __init__(self, model: VLM, head: AnalyticHead, cache: FeatureCache | None = None) -> None:
        if model.class_head is not None:
            raise InputError("the model has a class head already: an analytic head needs a plain zero-shot model")
        if model.detour is not None:
            raise InputError(
                f"the model's image path is taken by {type(model.detour).__name__}: an analytic head needs features "
                "that stay what they are"
            )
        super().__init__(model)
        self.head, self.cache = head, cache
        model.class_head = head

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if isinstance(strategy.experience.dataset.eval()[0][0], ImageText):
            raise InputError("an analytic head needs a class-labelled stream; this one has image-text pairs")
        super().before_training_exp(strategy, **kwargs)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        model: VLM = strategy.model
        with model.evaluating(), autocast_of(strategy):
            if self.cache is None:
                parts = [(model.encode_image_plain(x), y) for x, y, _ in experience_batches(strategy)]
                features, y = (torch.cat(part) for part in zip(*parts, strict=True))
            else:
                columns = self.cache.experience(model, strategy.experience, lambda: experience_batches(strategy))
                features, y = columns["features"], columns["y"]
            self.head.fit(features, y)

    def stored(self) -> StoredBytes:
        return self.head.stored() + (StoredBytes() if self.cache is None else self.cache.stored())
