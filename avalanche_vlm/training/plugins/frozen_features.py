"""Training on the features of a frozen image tower, each computed once."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

import torch

from avalanche_vlm.benchmarks.scenario import as_feature_data
from avalanche_vlm.memory.state import IN_MODEL, TRANSIENT
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.trained import LearnedClassesHead
from avalanche_vlm.models.modules.feature_path import FeaturePath
from avalanche_vlm.training.data import LabelledFeatures, experience_features
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy, model_of, refuse_pairs
from avalanche_vlm.training.strategies import autocast_of

Head = TypeVar("Head", bound=LearnedClassesHead)


class FrozenFeaturesPlugin(VLMPlugin, Generic[Head], supports_distributed=True):
    """Base of methods that train a head on what a frozen image tower says.

    Every experience is encoded once, under its evaluation transforms, and the training loop gets the features in the
    place of the images, for as many epochs as it likes. So augmentation has no part in it, and plugins that want to see
    pixels in training do not go together with this one.

    :param model: the model that the strategy trains, adapted in place at construction: towers frozen, the head given to
        it.
    :param head: the head, which answers for the classes learned.
    :raises InputError: if another method has the model's class head or its image path.
    """

    states: ClassVar = {"head": IN_MODEL, "_experience": TRANSIENT}
    needs_all_classes = True

    def __init__(self, model: VLM, head: Head) -> None:
        super().__init__()
        owner = type(head).__name__
        model.slots.check("class_head", owner)
        model.install("image_path", FeaturePath(), owner)
        model.install("class_head", head, owner)
        model.freeze("image", "text", "scale")
        self.head = head
        self._experience: LabelledFeatures | None = None

    @property
    def rows(self) -> LabelledFeatures:
        """The experience that is being trained."""
        assert self._experience is not None, "an experience is encoded while it is trained"
        return self._experience

    def before_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        refuse_pairs(strategy, type(self.head).__name__)
        # Avalanche moves the model when it adapts it, which comes next.
        model_of(strategy).to(strategy.device)
        with autocast_of(strategy):
            self._experience = experience_features(strategy)
        super().before_train_dataset_adaptation(strategy, **kwargs)

    def after_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        # On the CPU, from where worker processes can read them.
        strategy.adapted_dataset = as_feature_data(*(part.cpu() for part in self.training_rows(strategy)))

    def training_rows(self, strategy: Strategy) -> LabelledFeatures:
        """What is trained on: the experience's own samples.

        :param strategy: the strategy, as the experience starts.
        """
        return self.rows

    def class_texts(self, strategy: Strategy) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of the experience's classes ``[n]``, and their text features as they are now ``[n, D]``.

        :param strategy: the strategy, while the experience is trained.
        """
        model, classes = model_of(strategy), self.rows.classes
        with model.evaluating(), autocast_of(strategy), model.competing.as_in_training():
            return classes, model.prompt_features(classes)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self._experience = None
