"""LADA's training: memory units and texts of a task, under replay of the classes before it."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_vlm.compat import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import StoredBytes
from avalanche_vlm.memory.density_fit import fit_density
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.trained import LabelSpecificHead
from avalanche_vlm.models.modules.adapter import inject_adapters
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.models.vlm import MASKED
from avalanche_vlm.training.plugins.frozen_features import FrozenFeaturesPlugin
from avalanche_vlm.training.protocol import Strategy
from avalanche_vlm.training.strategies import autocast_of

_MODULE = "task"


class LabelSpecificPlugin(FrozenFeaturesPlugin):
    """Train the memory units of an experience's classes, from k-means centres of their features, and adapters on the
    text tower; keep the texts that come of it, and forget the adapters (LADA, Luo et al., arXiv 2505.23271).

    With every batch come features that are drawn from the mixtures of classes before, with their own units and texts,
    which are frozen: what trains learns to stay out of their way (distribution-preserved training). The loss is the
    mean over classes of the two. Where no class that trains competes with the drawn ones, as under the label space
    ``"task"``, there is nothing to learn from them, and none is drawn.

    :param model: adapted in place at construction.
    :param head: the units.
    :param memory: ``by="class"``, fitted on every experience after it was trained.
    :param bottleneck: of the adapters on the text tower's MLPs; 0 leaves texts as they are.
    :param batch_size: drawn features per iteration, at least 1.
    :param seed: of the clustering.
    :raises InputError: for a setting out of its range, a memory of another kind, or a model that is not plain.
    """

    def __init__(
        self,
        model: VLM,
        head: LabelSpecificHead,
        memory: FeatureMemory,
        *,
        bottleneck: int = 16,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        self.batch_size = whole(batch_size, 1, "the batch of drawn features")
        self.memory, self.seed = memory, seed
        whole(bottleneck, 0, "the bottleneck of text adapters")
        if memory.by != "class":
            raise InputError(f"LADA replays classes: it needs FeatureMemory(by='class'), this one has by={memory.by!r}")
        super().__init__(model, head)
        self.pool: ModulePool | None = None
        if bottleneck:
            self.pool = ModulePool(named("text", inject_adapters(model.tower("text"), bottleneck=bottleneck)))
        self._seen: ForwardFeatures | None = None

    def prepare_parameters(self, strategy: Strategy) -> None:
        self._forget_module()  # of an experience that broke off
        super().prepare_parameters(strategy)
        units, owners = [], []
        for c in self.rows.classes:
            of_class = self.rows.features[self.rows.y == c]
            density = fit_density(of_class, "kmeans", components=self.head.width, spread=False, seed=self.seed)
            centres = density.means[0][density.weights[0] > 0].to(of_class)
            units.append(centres)
            owners.append(c.expand(len(centres)))
        self.head.begin(torch.cat(units), torch.cat(owners))
        if self.pool is not None:
            self.pool.add(_MODULE)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._disarm(strategy)

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._disarm(strategy)
        if len(self.memory):
            strategy.model.taps.append(self._see)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        if len(self.memory):
            strategy.model.taps.remove(self._see)

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        seen, self._seen = self._seen, None
        if seen is None:
            return
        model: VLM = strategy.model
        new = self.rows.classes
        old = self.memory.labels.unique()
        if not bool(model.competing.of(self.memory.task_labels.to(strategy.device))[..., new].any()):
            return
        drawn = {name: column.to(strategy.device) for name, column in self.memory.sample(self.batch_size).items()}
        competes = model.competing.of(drawn["task"]).expand(len(drawn["y"]), -1)
        # The texts of this very pass: to encode them again would cost what the whole step costs.
        logits = torch.full(competes.shape, MASKED, device=strategy.device)
        logits[:, seen.classes] = model.similarity(drawn["features"], seen.texts)
        with autocast_of(strategy):
            loss = criterion_of(strategy)(self.head.among_learned(drawn["features"], logits, competes), drawn["y"])
        share = len(old) / (len(old) + len(new))
        # The task loss afresh, since strategy.loss may hold what other plugins added: their weights stay theirs.
        strategy.loss = strategy.loss + share * (loss - strategy.criterion())

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.head.seal(*self.class_texts(strategy))
        self._forget_module()
        self.memory.fit(*self.rows, step=strategy.experience.current_experience)
        super().after_training_exp(strategy)

    def stored(self) -> StoredBytes:
        return self.head.stored() + self.memory.stored()

    def _see(self, features: ForwardFeatures) -> None:
        self._seen = features

    def _disarm(self, strategy: Strategy) -> None:
        """Clear what a forward pass that raised has left."""
        self._seen = None
        if self._see in strategy.model.taps:
            strategy.model.taps.remove(self._see)

    def _forget_module(self) -> None:
        if self.pool is not None and _MODULE in self.pool.names:
            self.pool.drop(_MODULE)
