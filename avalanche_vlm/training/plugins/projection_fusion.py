"""PROOF's training: projections and contexts of a task on its samples and the exemplars of those before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from avalanche_vlm.benchmarks.label_space import TrainClasses
from avalanche_vlm.compat.strategies import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.contrastive import multi_positive_contrastive
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.selection import herding_ranks
from avalanche_vlm.memory.state import KEPT
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.trained import ProjectionFusionHead
from avalanche_vlm.training.data import LabelledFeatures, experience_batches, images_of, rows_of_batches, train_united
from avalanche_vlm.training.plugins.frozen_features import FrozenFeaturesPlugin
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.strategies import autocast_of


class ProjectionFusionPlugin(FrozenFeaturesPlugin[ProjectionFusionHead], supports_distributed=True):
    """Train a task's projections and contexts, and the fusion, on its samples joined with the exemplars of all tasks
    before it (PROOF, Zhou et al., arXiv 2305.19270).

    The loss is the task loss on fused texts, the contrastive loss of projected images and the projected texts of their
    classes, and the task loss on fused prototypes. In the contrastive loss samples of one class are each other's
    positives, which the authors' code counts as negatives.

    :param model: the model that the strategy trains, adapted in place at construction.
    :param head: the projections and their fusion.
    :param memory: exemplars of the policy ``"herding"``; their budget is set here.
    :param per_class: exemplars of each class, at least 1.
    :raises InputError: for another policy, fewer exemplars, or if another method has the model's class head or its
        image path.
    """

    states: ClassVar = {"memory": KEPT}
    train_classes: TrainClasses | None = "seen"

    def __init__(self, model: VLM, head: ProjectionFusionHead, memory: ExemplarMemory, *, per_class: int = 20) -> None:
        if memory.policy != "herding":
            raise InputError(f"PROOF chooses exemplars by herding, and the memory's policy is {memory.policy}")
        self.memory = memory
        self.per_class = whole(per_class, 1, "the number of exemplars per class")
        self.transform = model.transforms.eval
        super().__init__(model, head)

    def prepare_parameters(self, strategy: Strategy) -> None:
        self.head.begin()

    @torch.no_grad()
    def training_rows(self, strategy: Strategy) -> LabelledFeatures:
        """The experience's samples and all exemplars."""
        model = model_of(strategy)

        def parts() -> Iterator[LabelledFeatures]:
            yield self.rows
            for part in self.memory.chunks():
                images = self.transform.from_uint8(part["pixels"].to(strategy.device))
                old = (part[name].to(strategy.device) for name in ("y", "task"))
                yield LabelledFeatures(model.encode_image_plain(images), *old)

        with model.evaluating(), autocast_of(strategy):
            return LabelledFeatures(*rows_of_batches(parts(), len(self.rows.y) + len(self.memory)))

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        train_united(strategy, **kwargs)
        self.head.learn(self.rows.features, self.rows.y, *self.class_texts(strategy))

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        head, y = self.head, strategy.mb_y
        with autocast_of(strategy):
            prototypes = criterion_of(strategy)(head.take_prototype_logits(), y)
        with torch.autocast(strategy.device.type, enabled=False):
            images = head.project_images(strategy.mb_x.float())
            similarities = head.cosine_logits(images, head.project_texts(head.texts[y]))
            strategy.loss = strategy.loss + multi_positive_contrastive(similarities, y) + prototypes

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.head.seal()
        self.memory.resize(max_samples=self.per_class * int(self.head.known.sum()))
        keys = herding_ranks(self.rows.features, self.rows.y, self.per_class)
        step, start = strategy.experience.current_experience, 0
        for x, y, task in experience_batches(strategy):
            pixels = self.transform.to_uint8(images_of(x))
            self.memory.add(pixels, y, task, step=step, keys=keys[start : start + len(y)])
            start += len(y)
        super().after_training_exp(strategy)
