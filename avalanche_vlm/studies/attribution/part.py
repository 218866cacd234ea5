"""One set of weights to compare a trained model with, and the samples that it is compared on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch

from avalanche_vlm.evaluation.blocks import tower_of
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.attribution.interventions import Interventions

Features = tuple[torch.Tensor, torch.Tensor]
"""Of images and of texts."""
Fit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From features, and what they should become, to the matrix that maps them."""
Way = tuple[str, ...] | float
"""Blocks that are put back, or the share of the way back that all weights go."""


class LossPart(ABC):
    """Samples of a loss that have one reference: the weights with which they were answered before.

    Every sample is scored in two ways: as it is *given*, and *amended* by what has nothing to do with the weights (a
    text that belongs to another image, classes that compete by now and did not before). Interventions on weights are
    scored amended.

    :param model: the trained model, changed only while something is measured.
    """

    maps: Sequence[str] = ()
    """Kinds of maps between feature spaces that can be fitted on these samples."""

    def __init__(self, model: VLM) -> None:
        self.model = model
        self.trained = self.features(model)
        interventions = self.opened()
        self.blocks, self.changed = list(interventions.blocks), list(interventions.changed)
        self.changed_towers = set(interventions.changed_towers)
        with interventions.way_back() as before:
            self.reference = self.features(before, self.changed_towers)
            self.amend()
            self.reference_scores = self.score(self.reference, given=True), self.score(self.reference)
        self.trained_scores = self.score(self.trained, given=True), self.score(self.trained)

    @property
    def target(self) -> np.ndarray:
        """Scores that were there before: what a loss is counted from."""
        return self.reference_scores[1]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def opened(self) -> Interventions:
        """The model and its reference."""

    @abstractmethod
    def images(self, model: VLM) -> torch.Tensor:
        """Unit-length image features, a row for each sample.

        :param model: the model in its present state.
        """

    @abstractmethod
    def texts(self, model: VLM) -> torch.Tensor:
        """Unit-length text features, as :meth:`score` wants them.

        :param model: the model in its present state.
        """

    @abstractmethod
    def score(self, features: Features, given: bool = False) -> np.ndarray:
        """How right each sample is, ``[N]`` in [0, 1], while the model is in the state that the features are from.

        :param features: features of images and texts.
        :param given: whether to score the samples as they are given, without the amendment.
        """

    @abstractmethod
    def mapped(self, fit: Fit) -> Features:
        """The trained features, those of each changed tower mapped to where the reference has them. No sample's answer
        has a part in the fit.

        :param fit: fits one map.
        """

    def amend(self) -> None:  # noqa: B027
        """Find out what :meth:`score` amends; ``reference`` is there, and the weights are its own. By default that
        is known without."""

    def features(self, model: VLM, towers: set[str] | None = None) -> Features:
        """Features of both towers; those of a tower that is not in a given set are the trained model's.

        :param model: the model in its present state.
        :param towers: names of the towers to encode with; None for both.
        """
        images = self.images(model) if towers is None or "image" in towers else self.trained[0]
        return images, self.texts(model) if towers is None or "text" in towers else self.trained[1]

    def with_map(self, fit: Fit) -> np.ndarray:
        """Scores of :meth:`mapped` features.

        :param fit: fits one map.
        """
        return self.score(self.mapped(fit))

    def with_ways(self, ways: Sequence[Way]) -> list[np.ndarray]:
        """Scores with weights put back in several ways, one after the other. Where nothing has changed nothing is
        computed.

        :param ways: blocks, or shares of the way.
        """
        interventions, found = self.opened(), []
        for way in ways:
            if isinstance(way, float):
                changing, towers = interventions.way_back(way), self.changed_towers
            else:
                changing, towers = interventions.put_back(way), {tower_of(b) for b in way if b in self.changed}
                if not towers:
                    found.append(self.trained_scores[1])
                    continue
            with changing as model:
                found.append(self.score(self.features(model, towers)))
        return found
