"""Distillation that also holds the weights which it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from avalanche_vlm.losses.penalty import adaptive_fisher, add_gradient, add_quadratic_gradient, quadratic_penalty
from avalanche_vlm.memory.state import KEPT, TRANSIENT
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins.distillation import DistillationPlugin, Loss
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.reference.base import Reference
from avalanche_vlm.training.teachers.base import TeacherPolicy
from avalanche_vlm.weights.average import State, snapshot


class ConsolidatedDistillationPlugin(DistillationPlugin):
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

    states: ClassVar = {"_anchor": KEPT, "_gradients": TRANSIENT}

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
        self._gradients: State = {}

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
        # The importances need this gradient now, and the step needs it once more: it is kept until then, so that the
        # reference's batch is not gone through twice.
        self._gradients = dict(zip(trainable, found, strict=True))
        with torch.no_grad():
            penalty = sum(self._penalty(trainable, name) for name in self._gradients)
        strategy.loss = strategy.loss + loss.detach() + self.consolidation * penalty

    def _penalty(self, trainable: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        return quadratic_penalty(trainable, {name: self._anchor[name]}, self._importance(name))

    def _importance(self, name: str) -> State:
        return adaptive_fisher({name: self._gradients[name]})

    def after_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        super().after_backward(strategy, **kwargs)
        trainable = model_of(strategy).trainable_parameters()
        for name in list(self._gradients):  # tensor by tensor, so that no copy of all weights is made
            anchor, importance = {name: self._anchor[name]}, self._importance(name)
            add_gradient(trainable[name], self._gradients.pop(name))
            add_quadratic_gradient(trainable, anchor, importance, self.consolidation)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        self._anchor = {}  # the next task starts from the weights themselves
