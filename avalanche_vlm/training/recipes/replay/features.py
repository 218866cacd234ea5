"""Replay of what samples became inside the model: text features, activations, statistics of features."""

from __future__ import annotations

from avalanche_vlm.memory.densities import DensityKind
from avalanche_vlm.memory.latents import LatentMemory, LatentPrecision
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import FeatureReplayPlugin, LatentReplayPlugin, TextReplayPlugin
from avalanche_vlm.training.recipes.declaration import Paper, Plugins, Tuned, Unpublished
from avalanche_vlm.training.recipes.facts import LIKE_FINE_TUNING, RAPF, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import Bytes, Count, Members, NonNegative, Seed, Share, Width
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "text-replay",
    family="MMRE",
    summary="captions or prompts without images hold the text tower",
    training=[Unpublished("our composition")],
    adamw=LIKE_FINE_TUNING,
    picturebook=WHOLE_TOWERS,
)
def text_replay(
    model: VLM, *, max_bytes: Bytes = 1 << 18, batch_size: Count = 64, weight: NonNegative = 1.0, seed: Seed = 0
) -> Plugins:
    """Captions (for classes, prompts) without images: their features stay where they were. Holds the text tower alone.

    Our composition; the survey lists texts among explicit memories.

    :param max_bytes: budget of the memory in bytes.
    :param batch_size: replayed texts per iteration.
    :param weight: weight of one minus the cosine, 0 or more.
    :param seed: seed of what is kept and drawn, 0 or more.
    """
    return [TextReplayPlugin(model, LatentMemory(max_bytes, "fp16", seed), batch_size=batch_size, weight=weight)]


@recipe(
    "latent-replay",
    family="MMRE",
    summary="activations at a cut of the image tower, in 16 or 8 bits, train what is above it",
    paper=["1912.01100"],
    training=[Unpublished("the paper's settings are for a MobileNet on CORe50; none are known to us for a CLIP")],
    adamw=LIKE_FINE_TUNING,
    picturebook=WHOLE_TOWERS,
)
def latent_replay(
    model: VLM,
    *,
    max_bytes: Bytes = 1 << 20,
    precision: LatentPrecision = "int8",
    layer: str = "",
    batch_size: Count = 64,
    seed: Seed = 0,
) -> Plugins:
    """Latent replay (Pellegrini et al., arXiv 1912.01100): the image tower is frozen below a cut, activations at the
    cut are stored in its place of the pictures, and the tower is trained above it.

    Differs from the paper: the lower part does not train at all (there, slowly), so stored activations never age.

    Cuts towers of transformer blocks, open_clip's or timm's (SigLIP's), before their middle block; in CLIP's ResNets
    ``layer`` names the cut.

    :param max_bytes: budget of the memory in bytes.
    :param precision: numbers of a stored activation, ``"fp16"`` or ``"int8"``.
    :param layer: submodule of the image tower before which the cut is; empty for the middle block.
    :param batch_size: replayed samples per iteration, besides the new ones.
    :param seed: seed of what is kept and drawn, 0 or more.
    """
    memory = LatentMemory(max_bytes, precision, seed)
    return [LatentReplayPlugin(model, memory, layer=layer or None, batch_size=batch_size)]


@recipe(
    "prototype-replay",
    family="MMRE",
    summary="pseudo-features drawn from class statistics train one adapter on frozen towers",
    train_classes="seen",
    paper=[Paper("2407.14143", "its replay")],
    training=[RAPF],
    picturebook=Tuned(
        lr=3e-3,
        how="Of 1e-3, 3e-3 and 1e-2: 67.6, 69.2 and 68.4 (128 pictures per task); held-out R@1 ended at 100, 100 and "
        "95.5.",
    ),
)
def prototype_replay(
    model: VLM,
    *,
    kind: DensityKind = "full",
    max_bytes: Bytes | None = None,
    shrinkage: Share = 0.1,
    components: Members = 4,
    bottleneck: Width | None = None,
    batch_size: Count = 64,
    seed: Seed = 0,
) -> Plugins:
    """Pseudo-features of old classes, drawn from statistics, train one adapter on frozen towers (RAPF's replay, arXiv
    2407.14143, without its margins and fusion).

    Differs from RAPF's code: statistics of features of unit length, shrunk covariances, as many pseudo-features as new
    samples from all old classes alike, and an adapter that starts as the identity; ``rapf`` is nearer to it. In
    training all classes met so far compete, as there.

    :param kind: density of a class: ``"prototype"``, ``"diagonal"``, ``"full"``, ``"gmm"`` or ``"kmeans"``.
    :param max_bytes: budget of the statistics in bytes, over which all become coarser, with a warning; None for no
        bound (at 512 dimensions a full covariance takes 264 kB per class).
    :param shrinkage: shrinkage of full covariances, from 0 to 1.
    :param components: components of ``"gmm"`` and ``"kmeans"``.
    :param bottleneck: inner width of the adapter; None for a linear one.
    :param batch_size: pseudo-features per iteration, besides the new ones.
    :param seed: seed of fits and draws, 0 or more.
    """
    memory = FeatureMemory(kind, shrinkage=shrinkage, components=components, max_bytes=max_bytes, seed=seed)
    return [FeatureReplayPlugin(model, memory, bottleneck=bottleneck, batch_size=batch_size)]
