"""Fusion of an adapter, with pseudo-feature replay and margins."""

from __future__ import annotations

from typing import Any

import torch

from avalanche_vlm.losses.margins import confusable_pairs, hinge_margin
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import AdapterFusionPlugin, FeatureReplayPlugin
from avalanche_vlm.training.recipes.declaration import Plugins, Tuned
from avalanche_vlm.training.recipes.facts import RAPF
from avalanche_vlm.training.recipes.ranges import Count, NonNegative, Seed, Share
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "rapf",
    family="fusion",
    summary="pseudo-features with a margin between classes alike in text, and a fused adapter",
    kinds=["classes"],
    paper=["2407.14143"],
    training=[RAPF],
    picturebook=Tuned(lr=3e-3, how="Of 1e-3 and 3e-3: 69.0 and 71.5 (a smaller world)."),
)
def rapf(
    model: VLM,
    *,
    margin: NonNegative = 0.1,
    threshold: NonNegative = 0.55,
    margin_weight: NonNegative = 1.0,
    bias: Share = 0.6,
    max_bytes: Count = 1 << 22,
    shrinkage: Share = 0.0,
    batch_size: Count = 64,
    seed: Seed = 0,
) -> Plugins:
    """RAPF: one linear adapter on frozen towers, trained on the batch and on Gaussian pseudo-features of old classes; a
    margin between old classes and new ones whose texts are near; and the adapter of before and after a task fused
    (Huang et al., arXiv 2407.14143).

    Settings are the authors' code on CIFAR-100. It differs in that pseudo-features there are as many per class as a
    batch has images of it, and that for the margin they are drawn for every pair anew.
    :class:`~avalanche_vlm.training.plugins.AdapterFusionPlugin` says how the fusion reads our residual adapter.
    Class-labelled streams only.

    :param margin: margin between cosines, 0 or more.
    :param threshold: Euclidean distance of unit-length text features below which classes are confusable.
    :param margin_weight: weight of the hinge loss, 0 or more.
    :param bias: bias of the fusion, from 0 to 1.
    :param max_bytes: budget of the statistics in bytes; over it they become coarser.
    :param shrinkage: shrinkage of the covariances, from 0 to 1; the code adds 1e-4 to their diagonals in its place.
    :param batch_size: pseudo-features per iteration, besides the new ones.
    :param seed: seed of fits and draws, 0 or more.
    """
    memory = FeatureMemory("full", shrinkage=shrinkage, max_bytes=max_bytes, seed=seed)
    replay = FeatureReplayPlugin(model, memory, batch_size=batch_size, extra=_Margin(margin, threshold, margin_weight))
    return [replay, AdapterFusionPlugin(replay.path.adapter, bias)]


class _Margin:
    """The hinge loss on pseudo-features, between old classes and those of the experience that trains."""

    def __init__(self, margin: float, threshold: float, weight: float) -> None:
        self.margin, self.threshold, self.weight = margin, threshold, weight

    def __call__(self, strategy: Any, features: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        model: VLM = strategy.model
        assert model.label_space is not None, "class-labelled streams have one"
        every = torch.arange(len(model.label_space), device=y.device)
        texts = model.prompt_features(every)
        new = torch.tensor(sorted(strategy.experience.classes_in_this_experience), device=y.device)
        # Old are the classes that were drawn: of others there is no feature to hold.
        old = torch.isin(every, y) & ~torch.isin(every, new)
        pairs = confusable_pairs(texts, old, self.threshold)
        pairs = pairs[torch.isin(pairs[:, 1], new)]
        return self.weight * hinge_margin(features @ texts.T, y, pairs, self.margin)
