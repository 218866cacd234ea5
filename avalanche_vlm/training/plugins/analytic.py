"""Experiences without training: the model as it is, and heads that are computed in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from avalanche_vlm.memory.state import GIVEN, IN_MODEL, WORKING
from avalanche_vlm.models import VLM
from avalanche_vlm.models.feature_cache import FeatureCache
from avalanche_vlm.models.heads.analytic import AnalyticHead
from avalanche_vlm.training.data import experience_batches, experience_features, images_of
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of, refuse_pairs
from avalanche_vlm.training.strategies import autocast_of


class NoTrainingPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
    """Freeze the model and leave every epoch out; what else happens around an experience does happen.

    For as long as an experience lasts the strategy's ``train_epochs`` are 0. Put it before plugins that plan with
    their number.

    :param model: the model that the strategy trains; frozen at construction.
    """

    states: ClassVar = {"_epochs": WORKING}

    def __init__(self, model: VLM) -> None:
        super().__init__()
        model.freeze("image", "text", "scale")
        self._epochs: int | None = None

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._epochs is None:  # not after an experience that broke off
            self._epochs = strategy.train_epochs
        strategy.train_epochs = 0

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self._epochs is not None:
            strategy.train_epochs, self._epochs = self._epochs, None


class AnalyticHeadPlugin(NoTrainingPlugin, supports_distributed=True):
    """Fit a head in closed form, experience by experience, on the features of the frozen image tower.

    No epoch is trained: every experience is encoded once, under its evaluation transforms, and given to the head. The
    towers stay as they were pretrained, and with them what the gate leaves to the zero-shot head.

    :param model: the model that the strategy trains; frozen, and given the head, at construction.
    :param head: the head, which is fitted after every experience.
    :param cache: where features are looked up and kept; without, they are computed and dropped.
    :raises InputError: if another method has the model's class head or its image path.
    """

    states: ClassVar = {"head": IN_MODEL, "cache": GIVEN}

    def __init__(self, model: VLM, head: AnalyticHead, cache: FeatureCache | None = None) -> None:
        model.install("class_head", head, "an analytic head")
        super().__init__(model)
        self.head, self.cache = head, cache

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        refuse_pairs(strategy, "an analytic head")
        super().before_training_exp(strategy, **kwargs)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        model = model_of(strategy)
        with model.evaluating(), autocast_of(strategy):
            if self.cache is None:
                features, y, _ = experience_features(strategy)
            else:
                columns = self.cache.experience(model, strategy.experience, lambda: _pictures(strategy))
                features, y = columns["features"], columns["y"]
            self.head.fit(features, y)


def _pictures(strategy: Strategy) -> Iterator[Sequence[torch.Tensor]]:
    return ((images_of(x), y, task) for x, y, task in experience_batches(strategy))
