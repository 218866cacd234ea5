"""Replay of pseudo-features through a trainable adapter on frozen towers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import TrainClasses
from avalanche_vlm.compat.strategies import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.base import Columns
from avalanche_vlm.memory.draws import Passes
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import IN_MODEL, KEPT, WORKING
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.models.modules.feature_adapter import AdapterPath, FeatureAdapter
from avalanche_vlm.models.towers import TOWERS
from avalanche_vlm.models.vlm import VLM
from avalanche_vlm.training.data import LabelledFeatures, experience_batches, experience_features, rows_of_batches
from avalanche_vlm.training.plugins.base import VLMPlugin, add_as_one_batch
from avalanche_vlm.training.protocol import Strategy, is_pair_stream, model_of
from avalanche_vlm.training.strategies import autocast_of

Extra = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]


class FeatureReplayPlugin(VLMPlugin, supports_distributed=True, supports_sharding=True):
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
    :param start: what the adapter is before its first update: ``"identity"``, which changes nothing, or ``"random"``, a
        linear map drawn as ``nn.Linear`` draws its weights, with which the first task starts.
    :param batch_size: pseudo-features per iteration, at least 1, as evenly over all densities as that allows.
    :param groups: densities that an iteration draws from instead, in shuffled passes over all that are stored, at least
        1; None for all.
    :param per_group: pseudo-features of each of these, at least 1; without ``groups`` it says nothing.
    :param unit: whether statistics are those of features of unit length; False takes the length that the tower gives,
        and needs ``FeatureMemory(normalize=False)``. Class-labelled streams only.
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

    states: ClassVar = {"memory": KEPT, "path": IN_MODEL, "_before": WORKING, "_walk": WORKING}
    # Pseudo-features come in a batch of their own: without the classes of today they would hold nothing against it.
    train_classes: TrainClasses | None = "seen"

    def __init__(
        self,
        model: VLM,
        memory: FeatureMemory,
        *,
        bottleneck: int | None = None,
        start: Literal["identity", "random"] = "identity",
        batch_size: int = 64,
        groups: int | None = None,
        per_group: int = 20,
        unit: bool = True,
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
        if start not in ("identity", "random") or (start == "random" and bottleneck is not None):
            raise InputError(f"an adapter starts as identity, or random where it has no bottleneck, not {start!r}")
        if groups is not None:
            whole(groups, 1, "the number of densities per iteration")
            whole(per_group, 1, "the number of pseudo-features of a density")
        if unit != memory.normalize:
            raise InputError("drawn features have unit length where those of the statistics have: unit and normalize")
        self.path = AdapterPath(FeatureAdapter(model.width, bottleneck=bottleneck))
        model.slots.check("image_path", "feature replay")
        model.freeze(*(tower for tower in TOWERS if tower not in train_towers)).unfreeze(*train_towers)
        model.install("image_path", self.path, "feature replay")
        self.memory = memory
        self.start, self.unit = start, unit
        self.batch_size, self.groups, self.per_group = batch_size, groups, per_group
        self._walk: Passes | None = None
        self.weight, self.extra = weight, extra
        self.compensate = compensate
        self._before: torch.Tensor | None = None

    @torch.no_grad()
    def prepare_parameters(self, strategy: Strategy) -> None:
        if self.start == "random" and len(self.memory) == 0:
            weight = self.path.adapter.up.weight
            bound = weight.shape[1] ** -0.5
            drawn = (2 * torch.rand(weight.shape, generator=self._generator()) - 1) * bound
            weight.copy_(drawn - torch.eye(len(weight)))  # the adapter adds to what it reads

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        if self.memory.by != "class" and not is_pair_stream(strategy):
            raise InputError("feature replay on class labels needs FeatureMemory(by='class'), this one has by='task'")
        if self.groups is not None and len(self.memory):
            seed = int(torch.randint(2**31, (), generator=self._generator(strategy.experience.current_experience)))
            self._walk = Passes(len(self.memory), self.groups, seed)
        if self.compensate and len(self.memory) > 0:
            self._before = _plain_features(strategy, self.unit)[0]

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        if len(self.memory) == 0:
            return
        old = {name: to_device(column, strategy.device) for name, column in self._drawn().items()}
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
        self._walk = None
        features, y, task_labels = _plain_features(strategy, self.unit)
        if self._before is not None:
            self.memory.compensate(self._before, features)
            self._before = None
        for task in task_labels.unique():
            # By themselves: a density of several tasks has no task label to draw its features with.
            rows = task_labels == task
            self.memory.fit(features[rows], y[rows], task_labels[rows], step=strategy.experience.current_experience)

    def _drawn(self) -> Columns:
        if self._walk is None:
            return self.memory.sample(self.batch_size)
        places = self._walk.next()
        return self.memory.sample(self.per_group * len(places), places)

    def _generator(self, step: int = 0) -> torch.Generator:
        """The draws of what is chosen once per experience, beside those of the memory."""
        (seed,) = np.random.SeedSequence([self.memory.seed, 1, step]).generate_state(1)
        return torch.Generator().manual_seed(int(seed))

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


def _plain_features(strategy: Strategy, unit: bool) -> LabelledFeatures:
    """The experience past the adapter. For pairs the features are ``[N, 2 D]``: image beside text, over the root of
    two."""
    if not is_pair_stream(strategy):
        return experience_features(strategy, unit)
    model = model_of(strategy)

    def halves() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for pairs, _, task_labels in experience_batches(strategy):
            assert isinstance(pairs, ImageText)
            both = model.encode_image_plain(pairs.image), model.encode_text(pairs.tokens, padding=pairs.padding)
            yield torch.cat(both, dim=1) / math.sqrt(2), task_labels

    with model.evaluating():
        features, task = rows_of_batches(halves(), len(strategy.experience.dataset))
    # Captions hardly repeat: a density for each would be the pairs themselves.
    return LabelledFeatures(features, torch.zeros_like(task), task)
