"""Fusion of an adapter, with pseudo-feature replay and margins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from avalanche_vlm._host import on_host, to_device
from avalanche_vlm.benchmarks.experiences import classes_of
from avalanche_vlm.losses.margins import confusable_pairs, hinge_margin
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import AdapterFusionPlugin, FeatureReplayPlugin
from avalanche_vlm.training.recipes.declaration import Plugins, Published, Tuned
from avalanche_vlm.training.recipes.facts import RAPF
from avalanche_vlm.training.recipes.ranges import Bytes, Members, NonNegative, Seed, Share
from avalanche_vlm.training.recipes.registry import recipe


def _published(benchmark: str, batch_size: int, **options: Any) -> Published:
    """RAPF's settings on another benchmark: what differs from those on CIFAR100 besides are options."""
    return replace(RAPF, benchmark=benchmark, batch_size=batch_size, options=options)


@recipe(
    "rapf",
    family="fusion",
    summary="pseudo-features with a margin between classes alike in text, and a fused adapter",
    kinds=["classes"],
    train_classes="seen",
    paper=["2407.14143"],
    training=[
        RAPF,
        _published("class-incremental ImageNet-R", 64, classes=5, per_class=10, threshold=0.65, bias=0.7),
        _published("class-incremental ImageNet100", 128, per_class=10, threshold=0.65, bias=0.5),
        _published("class-incremental CUB200", 32, classes=10, per_class=10, threshold=0.65, bias=0.8),
    ],
    picturebook=Tuned(lr=3e-3, how="Of 1e-3, 3e-3 and 1e-2: 67.2, 68.8 and 66.1 (128 pictures per task)."),
)
def rapf(
    model: VLM,
    *,
    margin: NonNegative = 0.1,
    threshold: NonNegative = 0.55,
    margin_weight: NonNegative = 1.0,
    bias: Share = 0.6,
    start: Literal["identity", "random"] = "identity",
    max_bytes: Bytes | None = None,
    shrinkage: Share = 0.0,
    classes: Members = 2,
    per_class: Members = 20,
    seed: Seed = 0,
) -> Plugins:
    """RAPF: one linear adapter on frozen towers, trained on the batch and on Gaussian pseudo-features of old classes; a
    margin between old classes and new ones whose texts are near; and the adapter of before and after a task fused
    (Huang et al., arXiv 2407.14143).

    Settings are the authors' code on CIFAR-100 in ten tasks: a full covariance for every class, of features as long as
    the tower gives them, and 20 pseudo-features of each of 2 old classes per batch, in shuffled passes over all; in
    training all classes met so far compete. At 512 dimensions a class takes 264 kB.

    Differs from the code: the adapter starts as the identity, so that before the first task the model is the
    pretrained one and what no task trained keeps more of it; there it starts at random (``start="random"``). The
    margin is taken on the pseudo-features of the batch, each pair when its old class comes round; there 40 are drawn
    for every pair in every batch. Covariances divide by the number of samples and have no eigenvalue below 1e-6; there
    they divide by one less, 1e-4 is added to their diagonals, and for ImageNet-R and CUB200 the mean of the diagonal
    and of what is beside it as well. Adam's rate falls tenfold after 4 and 10 of 15 epochs there; a recipe has no
    schedule, and what runs it here lets the rate fall by a cosine.
    :class:`~avalanche_vlm.training.plugins.AdapterFusionPlugin` says how the fusion reads our residual adapter.
    Class-labelled streams only.

    :param margin: margin between cosines, 0 or more.
    :param threshold: Euclidean distance of unit-length text features below which classes are confusable.
    :param margin_weight: weight of the hinge loss, 0 or more.
    :param bias: bias of the fusion, from 0 to 1.
    :param start: what the adapter is before the first update, ``"identity"`` or ``"random"``.
    :param max_bytes: budget of the statistics in bytes, over which all become coarser, with a warning; None for full
        covariances of all classes.
    :param shrinkage: shrinkage of the covariances, from 0 to 1.
    :param classes: old classes whose pseudo-features are in a batch.
    :param per_class: pseudo-features of each of them.
    :param seed: seed of fits and draws, 0 or more.
    """
    memory = FeatureMemory("full", shrinkage=shrinkage, max_bytes=max_bytes, seed=seed, normalize=False)
    replay = FeatureReplayPlugin(
        model,
        memory,
        start=start,
        groups=classes,
        per_group=per_class,
        unit=False,
        extra=_Margin(margin, threshold, margin_weight),
    )
    return [replay, AdapterFusionPlugin(replay.path.adapter, bias)]


class _Margin:
    """The hinge loss on pseudo-features, between old classes and those of the experience that trains."""

    def __init__(self, margin: float, threshold: float, weight: float) -> None:
        self.margin, self.threshold, self.weight = margin, threshold, weight

    def __call__(self, strategy: Any, features: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        model: VLM = strategy.model
        y, new = on_host(y), torch.tensor(classes_of(strategy.experience))
        # Old are the classes that were drawn: of others there is no feature to hold.
        classes = torch.cat([y, new]).unique()
        texts = model.prompt_features(classes)
        old = to_device(~torch.isin(classes, new), texts.device)
        pairs = on_host(confusable_pairs(texts, old, self.threshold))
        pairs = pairs[torch.isin(classes[pairs[:, 1]], new)]
        drawn = torch.searchsorted(classes, y)
        return self.weight * hinge_margin(features @ texts.T, drawn, pairs, self.margin)
