"""LADA's training: memory units and texts of a task, under replay of the classes before it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from avalanche_vlm._host import to_device
from avalanche_vlm.benchmarks.experiences import classes_of
from avalanche_vlm.benchmarks.label_space import TrainClasses
from avalanche_vlm.compat.strategies import criterion_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.density_fit import fit_density
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.memory.state import KEPT, TRANSIENT
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.trained import LabelSpecificHead
from avalanche_vlm.models.modules.adapter import AdapterSite, inject_adapters
from avalanche_vlm.models.modules.pool import ModulePool
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.taps import ForwardFeatures
from avalanche_vlm.models.vlm import MASKED
from avalanche_vlm.training.plugins.base import add_with_share
from avalanche_vlm.training.plugins.frozen_features import FrozenFeaturesPlugin
from avalanche_vlm.training.plugins.taps import Tap
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.strategies import autocast_of

_MODULE = "task"


def text_adapters(tower: nn.Module, bottleneck: int = 16) -> dict[str, AdapterSite]:
    """LADA's adapters beside every MLP of a text tower: each with a LayerNorm before it, and a scale that it learns.

    :param tower: the text tower, in which the places for adapters are put.
    :param bottleneck: inner width of every adapter, at least 1.
    :return: the places by name, in the tower's order.
    """
    return inject_adapters(tower, bottleneck=bottleneck, norm=True, learned_scale=True)


class LabelSpecificPlugin(FrozenFeaturesPlugin[LabelSpecificHead], supports_distributed=True):
    """Train the memory units of an experience's classes, from k-means centres of their features, and adapters on the
    text tower; keep the texts that come of it, and forget the adapters (LADA, Luo et al., arXiv 2505.23271).

    With every batch come features that are drawn from the mixtures of classes before, with their own units and texts,
    which are frozen: what trains learns to stay out of their way (distribution-preserved training). The loss is the
    mean over classes of the two. Where no class that trains competes with the drawn ones, as under the label space
    ``"task"``, there is nothing to learn from them, and none is drawn.

    :param model: the model that the strategy trains, adapted in place at construction.
    :param head: the head of label-specific units.
    :param memory: statistics by class (``by="class"``), fitted on every experience after it was trained.
    :param bottleneck: inner width of the adapters on the text tower's MLPs; 0 leaves texts as they are.
    :param batch_size: drawn features per iteration, at least 1.
    :param seed: seed of the clustering, 0 or more.
    :raises InputError: for a setting out of its range, a memory of another kind, or if another method has the model's
        class head or its image path.
    """

    states: ClassVar = {
        "memory": KEPT,
        "pool": TRANSIENT,  # empty between tasks
    }
    train_classes: TrainClasses | None = "seen"

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
            self.pool = ModulePool(named("text", text_adapters(model.tower("text"), bottleneck)))
        self._tap: Tap[ForwardFeatures] = Tap()

    def prepare_parameters(self, strategy: Strategy) -> None:
        self._forget_module()  # of an experience that broke off
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
        self._tap.disarm(model_of(strategy).taps)

    def before_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.disarm(model_of(strategy).taps)
        if len(self.memory):
            self._tap.arm(model_of(strategy).taps)

    def after_forward(self, strategy: Strategy, **kwargs: Any) -> None:
        self._tap.close(model_of(strategy).taps)

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        model, seen = model_of(strategy), self._tap.seen
        self._tap.disarm(model.taps)
        if seen is None or seen.texts is None:
            return
        new = torch.tensor(classes_of(strategy.experience))
        old = self.memory.labels.unique()
        if not bool(model.competing.of(self.memory.task_labels)[..., new].any()):
            return
        drawn = {
            name: to_device(column, strategy.device) for name, column in self.memory.sample(self.batch_size).items()
        }
        competing = model.competing.of(drawn["task"]).expand(len(drawn["y"]), -1)
        competes = to_device(competing, strategy.device)
        # The texts of this very pass: to encode them again would cost what the whole step costs.
        logits = torch.full(competes.shape, MASKED, device=strategy.device)
        logits[:, seen.classes] = model.similarity(drawn["features"], seen.texts)
        with autocast_of(strategy):
            loss = criterion_of(strategy)(self.head.among_learned(drawn["features"], logits, competes), drawn["y"])
        add_with_share(strategy, loss, len(old) / (len(old) + len(new)))

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.head.seal(*self.class_texts(strategy))
        self._forget_module()
        for task in self.rows.task.unique():
            # By themselves: features of a density of several tasks could not say which classes they compete with.
            of_task = self.rows.task == task
            self.memory.fit(*(part[of_task] for part in self.rows), step=strategy.experience.current_experience)
        super().after_training_exp(strategy)

    def _forget_module(self) -> None:
        if self.pool is not None and _MODULE in self.pool.names:
            self.pool.drop(_MODULE)
