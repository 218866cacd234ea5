"""Training on the features of a frozen image tower, each computed once."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.scenario import as_feature_data
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.trained import LearnedClassesHead
from avalanche_vlm.models.modules.feature_path import FeaturePath
from avalanche_vlm.training.data import experience_batches
from avalanche_vlm.training.plugins.base import VLMPlugin
from avalanche_vlm.training.protocol import Strategy
from avalanche_vlm.training.strategies import autocast_of


class FeatureRows(NamedTuple):
    """Samples of frozen features.

    :param features: of unit length ``[N, D]``.
    :param y: class ids ``[N]``.
    :param task: task labels ``[N]``.
    """

    features: torch.Tensor
    y: torch.Tensor
    task: torch.Tensor

    @property
    def classes(self) -> torch.Tensor:
        """Ids in ascending order ``[n]``."""
        return self.y.unique()


class FrozenFeaturesPlugin(VLMPlugin):
    """Base of methods that train a head on what a frozen image tower says.

    Every experience is encoded once, under its evaluation transforms, and the training loop gets the features in the
    place of the images, for as many epochs as it likes. So augmentation has no part in it, and plugins that want to see
    pixels in training do not go together with this one.

    :param model: adapted in place at construction: towers frozen, the head given to it.
    :param head: answers for the classes learned.
    :raises InputError: if the model has another head already, or its images take another way than the tower alone.
    """

    def __init__(self, model: VLM, head: LearnedClassesHead) -> None:
        super().__init__()
        name = type(head).__name__
        if model.class_head is not None:
            raise InputError(f"the model has a class head already: {name} needs a plain zero-shot model")
        if model.detour is not None:
            raise InputError(
                f"the model's image path is taken by {type(model.detour).__name__}: {name} needs features that stay "
                "what they are"
            )
        model.freeze("image", "text", "scale")
        self.head = head.to(model.device).train(model.training)
        model.class_head = self.head
        model.image_path = FeaturePath()
        self.rows: FeatureRows | None = None
        """The experience that is being trained."""

    def prepare_parameters(self, strategy: Strategy) -> None:
        if isinstance(strategy.experience.dataset.eval()[0][0], ImageText):
            raise InputError(f"{type(self.head).__name__} needs a class-labelled stream; this one has image-text pairs")
        # Avalanche moves the model when it adapts it, which comes next.
        model: VLM = strategy.model.to(strategy.device)
        with model.evaluating(), autocast_of(strategy):
            parts = [(model.encode_image_plain(x), y, task) for x, y, task in experience_batches(strategy)]
        self.rows = FeatureRows(*map(torch.cat, zip(*parts, strict=True)))

    def after_train_dataset_adaptation(self, strategy: Strategy, **kwargs: Any) -> None:
        # On the CPU, from where worker processes can read them.
        strategy.adapted_dataset = as_feature_data(*(part.cpu() for part in self.training_rows(strategy)))

    def training_rows(self, strategy: Strategy) -> FeatureRows:
        """What is trained on: the experience's own samples."""
        return self.rows

    def class_texts(self, strategy: Strategy) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of the experience's classes ``[n]``, and their text features as they are now ``[n, D]``."""
        model: VLM = strategy.model
        classes = self.rows.classes
        with model.evaluating(), autocast_of(strategy):
            return classes, model.prompt_features(classes)

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        self.rows = None
