"""Distillation that also holds the weights which it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from avalanche_vlm._ranks import together
from avalanche_vlm.losses.penalty import consolidated
from avalanche_vlm.memory.state import KEPT
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins.distillation import DistillationPlugin, Loss
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.reference.base import Reference
from avalanche_vlm.training.teachers.base import TeacherPolicy
from avalanche_vlm.weights.average import State, snapshot


class ConsolidatedDistillationPlugin(DistillationPlugin, supports_distributed=True):
    """Distillation with GIFT's adaptive weight consolidation (Wu et al., arXiv 2503.04229).

    Adds to the training loss the given one, and ``consolidation`` times ``sum F (theta - theta_start of task)^2``,
    where F is :func:`~avalanche_vlm.losses.penalty.adaptive_fisher` of the given loss's gradient in this very step.
    Differs from the authors' code, which gives weights without a gradient the importance 1e-6, where ours is 0.

    :param model: the student, as the initial teacher will know it.
    :param loss: takes a :class:`~avalanche_vlm.training.plugins.Comparison`, gives a scalar.
    :param reference: what student and teachers are compared on.
    :param teachers: one teacher or several.
    :param consolidation: weight of the penalty. Importances are large where a tensor's gradient is sparse, so with
        plain SGD a step along the penalty's gradient can overshoot and diverge: it is meant for AdamW.
    """

    states: ClassVar = {"_anchor": KEPT}
    cannot: ClassVar = {
        "fp16": "it takes gradients by itself, which are rounded to zero there unless the loss is scaled"
    }

    def __init__(
        self,
        model: VLM,
        loss: Loss,
        reference: Reference,
        teachers: TeacherPolicy | Sequence[TeacherPolicy],
        consolidation: float = 1.0,
    ) -> None:
        super().__init__(model, loss, reference, teachers)
        self.consolidation = consolidation
        self._anchor: State = {}

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        self._anchor = snapshot(model_of(strategy).trainable_parameters())

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        others = strategy.loss
        strategy.loss = torch.zeros_like(others)
        super().before_backward(strategy, **kwargs)
        loss, strategy.loss = strategy.loss, others
        if not loss.requires_grad:  # there was nothing to compare
            return
        trainable = model_of(strategy).trainable_parameters()
        found = torch.autograd.grad(
            loss,
            list(trainable.values()),
            retain_graph=True,  # of the strategy's own forward pass, where the loss is on its features
            allow_unused=True,
            materialize_grads=True,  # a weight that no loss reaches decays all the same
        )
        # The importances need this gradient now, and the strategy's backward needs it again: the reference's batch is
        # not gone through twice.
        if (ranks := together()) is not None:
            found = tuple(ranks.averaged(found))
        gradients = dict(zip(trainable, found, strict=True))
        del found
        loss, penalty = consolidated(loss, trainable, gradients, self._anchor)
        strategy.loss += loss
        strategy.loss += self.consolidation * penalty

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        self._anchor = {}  # the next task starts from the weights themselves
