"""PROOF's training: projections and contexts of a task on its samples and the exemplars of those before."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_vlm.compat import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.contrastive import multi_positive_contrastive
from avalanche_vlm.memory import ExemplarMemory, StoredBytes
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.selection import herding_ranks
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.trained import ProjectionFusionHead
from avalanche_vlm.training.data import experience_batches
from avalanche_vlm.training.plugins.frozen_features import FeatureRows, FrozenFeaturesPlugin
from avalanche_vlm.training.protocol import Strategy
from avalanche_vlm.training.strategies import autocast_of


class ProjectionFusionPlugin(FrozenFeaturesPlugin):
    """Train a task's projections and contexts, and the fusion, on its samples joined with the exemplars of all tasks
    before it (PROOF, Zhou et al., arXiv 2305.19270).

    The loss is the task loss on fused texts, the contrastive loss of projected images and the projected texts of their
    classes, and the task loss on fused prototypes. In the contrastive loss samples of one class are each other's
    positives, which the authors' code counts as negatives.

    :param model: adapted in place at construction.
    :param head: the projections and their fusion.
    :param memory: of the policy ``"herding"``; its budget is set here.
    :param per_class: exemplars of each class, at least 1.
    :raises InputError: for another policy, fewer exemplars, or a model that is not plain.
    """

    def __init__(self, model: VLM, head: ProjectionFusionHead, memory: ExemplarMemory, *, per_class: int = 20) -> None:
        if memory.policy != "herding":
            raise InputError(f"PROOF chooses exemplars by herding, and the memory's policy is {memory.policy}")
        self.memory = memory
        self.per_class = whole(per_class, 1, "the number of exemplars per class")
        self.transform = model.transforms.eval
        super().__init__(model, head)

    def prepare_parameters(self, strategy: Strategy) -> None:
        super().prepare_parameters(strategy)
        self.head.begin()

    @torch.no_grad()
    def training_rows(self, strategy: Strategy) -> FeatureRows:
        """The experience's samples and all exemplars."""
        model: VLM = strategy.model
        parts = [self.rows]
        with model.evaluating(), autocast_of(strategy):
            for part in self.memory.chunks():
                images = self.transform.from_uint8(part["pixels"].to(strategy.device))
                old = (part[name].to(strategy.device) for name in ("y", "task"))
                parts.append(FeatureRows(model.encode_image_plain(images), *old))
        return FeatureRows(*map(torch.cat, zip(*parts, strict=True)))

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
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
            pixels = self.transform.to_uint8(x)
            self.memory.add(pixels, y, task, step=step, keys=keys[start : start + len(y)])
            start += len(y)
        super().after_training_exp(strategy)

    def stored(self) -> StoredBytes:
        return self.head.stored() + self.memory.stored()
