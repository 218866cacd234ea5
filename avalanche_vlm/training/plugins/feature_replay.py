"""Replay of pseudo-features through a trainable adapter on frozen towers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.compat import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.base import Columns
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import IN_MODEL, KEPT, WORKING
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.models.encoder import TOWERS
from avalanche_vlm.models.modules.feature_adapter import AdapterPath, FeatureAdapter
from avalanche_vlm.models.vlm import VLM
from avalanche_vlm.training.data import LabelledFeatures, experience_batches, experience_features
from avalanche_vlm.training.plugins.base import VLMPlugin, add_as_one_batch
from avalanche_vlm.training.protocol import Strategy, is_pair_stream, model_of
from avalanche_vlm.training.strategies import autocast_of

Extra = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


class FeatureReplayPlugin(VLMPlugin):
    """Train one adapter on the image features, on the current batch and on features drawn from statistics of the past.

    The recipe of prototype augmentation (PASS, Zhu et al., CVPR 2021) with RAPF's Gaussian pseudo-features of old
    classes (arXiv 2407.14143). The towers stay as they are, so what was fitted once remains true: the memory holds
    statistics of the *plain* tower's features, which pass through the adapter as it is now whenever they are drawn.

    On image-text streams image and text are fitted as one vector per pair, so that they are drawn together, and the
    drawn pairs are contrasted among each other.

    The price: the adapter changes the features of every image, those of tasks not yet trained and of held-out sets
    included, and nothing here holds these. Expect some zero-shot erosion, and measure it.

    Where another plugin changes weights at an experience's end (averaging, merging), put it before this one.

    :param model: adapted in place at construction: towers frozen, image path set. An optimizer made before or after
        will do, since Avalanche adds new parameters to it.
    :param memory: memory of feature statistics, ``by="class"`` for class-labelled streams; pairs of an experience are
        fitted as one class either way.
    :param bottleneck: inner width of the adapter; None for a linear one.
    :param batch_size: pseudo-features per iteration, at least 1.
    :param weight: weight of the pseudo-features' mean loss, which is added to the task loss; None takes the mean over
        current samples and pseudo-features as if they were one batch.
    :param extra: adds a loss of its own: called as ``extra(strategy, features, y)`` with the adapted pseudo-features,
        of unit length ``[B, D]`` with their graph, and their classes ``[B]``; it gives a scalar. Class-labelled streams
        only.
    :param train_towers: towers that train along (of ``"image"``, ``"text"``, ``"scale"``); the statistics of the past
        then go out of date.
    :param compensate: move stored statistics along with the towers by semantic drift compensation (arXiv 2004.00440):
        costs one more pass over every experience, whose features are held while it trains.
    :raises InputError: for a setting out of its range, or if another method has the model's image path or its class
        head.
    """

    states: ClassVar = {"memory": KEPT, "path": IN_MODEL, "_before": WORKING}

    def __init__(
        self,
        model: VLM,
        memory: FeatureMemory,
        *,
        bottleneck: int | None = None,
        batch_size: int = 64,
        weight: float | None = None,
        extra: Extra | None = None,
        train_towers: Sequence[str] = (),
        compensate: bool = False,
    ) -> None:
        super().__init__()
        whole(batch_size, 1, "the batch of pseudo-features")
        if weight is not None and not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"the weight of pseudo-features is a number of 0 or more, or None, not {weight}")
        if compensate and not {"image", "text"} & set(train_towers):
            raise InputError("compensate=True follows towers that train: name them in train_towers")
        self.path = AdapterPath(FeatureAdapter(model.width, bottleneck=bottleneck))
        model.slots.check("image_path", "feature replay")
        model.freeze(*(tower for tower in TOWERS if tower not in train_towers)).unfreeze(*train_towers)
        model.install("image_path", self.path, "feature replay")
        self.memory = memory
        self.batch_size = batch_size
        self.weight, self.extra = weight, extra
        self.compensate = compensate
        self._before: torch.Tensor | None = None

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.memory.by != "class" and not is_pair_stream(strategy):
            raise InputError("feature replay on class labels needs FeatureMemory(by='class'), this one has by='task'")
        if self.compensate and len(self.memory) > 0:
            self._before = _plain_features(strategy)[0]

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        if len(self.memory) == 0:
            return
        old = {name: column.to(strategy.device) for name, column in self.memory.sample(self.batch_size).items()}
        with autocast_of(strategy):
            adapted, logits, y = self._predict(model_of(strategy), old)
            loss = criterion_of(strategy)(logits, y)
            if self.extra is not None:
                strategy.loss = strategy.loss + self.extra(strategy, adapted, y)
        if self.weight is not None:
            strategy.loss = strategy.loss + self.weight * loss
        else:
            add_as_one_batch(strategy, loss, len(old["features"]))

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        features, y, task_labels = _plain_features(strategy)
        if self._before is not None:
            self.memory.compensate(self._before, features)
            self._before = None
        for task in task_labels.unique():
            # By themselves: a density of several tasks has no task label to draw its features with.
            rows = task_labels == task
            self.memory.fit(features[rows], y[rows], task_labels[rows], step=strategy.experience.current_experience)

    def _predict(self, model: VLM, old: Columns) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pseudo-features under the adapter as it is now, their logits and targets."""
        features, width = old["features"], self.path.adapter.width
        if features.shape[1] == width:
            adapted = F.normalize(self.path.adapt(features), dim=-1)
            return adapted, model.classify(adapted, old["task"]), old["y"]
        if self.extra is not None:
            raise InputError("a loss on classes needs a class-labelled stream; this one has image-text pairs")
        image, text = (F.normalize(half, dim=-1) for half in features.split(width, dim=1))
        adapted = F.normalize(self.path.adapt(image), dim=-1)
        # Every drawn pair is a caption of its own.
        return adapted, model.similarity(adapted, text), torch.arange(len(features), device=features.device)


def _plain_features(strategy: Strategy) -> LabelledFeatures:
    """The experience past the adapter. For pairs the features are ``[N, 2 D]``: image beside text, over the root of
    two."""
    if not is_pair_stream(strategy):
        return experience_features(strategy)
    model = model_of(strategy)
    features, tasks = [], []
    with model.evaluating():
        for pairs, _, task_labels in experience_batches(strategy):
            assert isinstance(pairs, ImageText)
            both = model.encode_image_plain(pairs.image), model.encode_text(pairs.tokens)
            features.append(torch.cat(both, dim=1) / math.sqrt(2))
            tasks.append(task_labels)
    task = torch.cat(tasks)
    # Captions hardly repeat: a density for each would be the pairs themselves.
    return LabelledFeatures(torch.cat(features), torch.zeros_like(task), task)
