"""Adaptation by heads that train on the features of a frozen VLM."""

from __future__ import annotations

from avalanche_vlm.memory import ExemplarMemory, FeatureMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.trained import LabelSpecificHead, ProjectionFusionHead
from avalanche_vlm.training.plugins.label_specific import LabelSpecificPlugin
from avalanche_vlm.training.plugins.projection_fusion import ProjectionFusionPlugin
from avalanche_vlm.training.recipes.declaration import Plugins, Published, Tuned
from avalanche_vlm.training.recipes.facts import MODULES
from avalanche_vlm.training.recipes.ranges import Bytes, Count, Members, Natural, NonNegative, Positive, Seed
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "lada",
    family="PEA",
    summary="memory units per class beside its adapted text, trained on frozen features",
    kinds=["classes"],
    train_classes="seen",
    paper=["2505.23271"],
    training=[
        Published(
            source="the paper",
            benchmark="X-TAIL",
            optimizer="AdamW",
            lr=1e-3,
            weight_decay=5e-4,
            schedule="one cycle",
            epochs=(5, 200),
            batch_size=64,
        )
    ],
    picturebook=Tuned(lr=1e-2, how="Of 3e-3, 1e-2, 3e-2 and 1e-1: 61.3, 67.4, 66.8 and 63.0 (128 pictures per task)."),
)
def lada(
    model: VLM,
    *,
    units: Members = 16,
    components: Members = 4,
    alpha: NonNegative = 1.0,
    beta: Positive = 1.0,
    bottleneck: Natural = 16,
    batch_size: Count = 64,
    max_bytes: Bytes | None = None,
    seed: Seed = 0,
) -> Plugins:
    """LADA: memory units of every class behind a frozen image tower, which start as k-means centres, beside texts that
    are adapted task by task; old classes come back as features drawn from Gaussian mixtures (Luo et al., arXiv
    2505.23271).

    :class:`~avalanche_vlm.models.heads.trained.LabelSpecificHead` has the equation and says how the head decides,
    :class:`~avalanche_vlm.training.plugins.label_specific.LabelSpecificPlugin` how it is trained. Published are 16
    units, 4 components, text adapters (AdaptFormer) of bottleneck 16 and scale 0.1. ``alpha`` and ``beta`` are the
    defaults of the authors' code, which we saw in others' copies. Every text adapter has a LayerNorm before it and
    learns its scale: on ViT-B/16 these are 215,244 parameters, the number that a log of that code states. Where its
    scale starts is not known to us; here at 0.1.

    Differs from it: features of evaluation transforms, computed once, instead of augmented views; mixtures of
    unit-length features with a variance per dimension, where the code fits spherical ones to features of any length;
    their components drawn by their shares, where the code draws one of each and weighs it by its share; the two losses
    weigh as many classes as are behind them (eq. 10), where the code weighs old classes 64 times their share; logits of
    classes with fewer or more units than others are scaled to the same number.

    :param units: memory units per class.
    :param components: components of the mixture of every class.
    :param alpha: weight of the units' logits.
    :param beta: sharpness of the units, above 0.
    :param bottleneck: inner width of the text adapters; 0 leaves texts as they are, as it has to be where the text
        tower has no MLP that they could stand beside.
    :param batch_size: drawn features per iteration, where old classes compete with new ones.
    :param max_bytes: budget of the mixtures in bytes, over which all become coarser, with a warning; None for no bound
        (at 512 dimensions a class takes 8 kB). The units come on top.
    :param seed: seed of clustering and draws, 0 or more.
    """
    bias = 0.0 if model.bias is None else float(model.bias)
    head = LabelSpecificHead(units, alpha, beta, scale=float(model.scale), bias=bias)
    memory = FeatureMemory("gmm", components=components, max_bytes=max_bytes, seed=seed)
    return [LabelSpecificPlugin(model, head, memory, bottleneck=bottleneck, batch_size=batch_size, seed=seed)]


@recipe(
    "proof",
    family="PEA",
    summary="projections per task, fused by attention, with exemplars in memory",
    kinds=["classes"],
    train_classes="seen",
    paper=["2305.19270"],
    training=[
        Published(
            source="the authors' code, exps/*.json and models/proof.py",
            benchmark="class-incremental image data sets",
            optimizer="SGD",
            lr=1e-3,
            weight_decay=0.05,
            momentum=0.9,
            schedule="cosine",
            epochs=10,
            batch_size=64,
            note="5 epochs on CIFAR100 and on Food101 in six tasks, there at 2e-3 in batches of 32; batches of 48 on "
            "ImageNet-R in ten tasks; AdamW on Aircraft in six tasks",
        )
    ],
    adamw=MODULES,
    picturebook=Tuned(lr=1e-3, how="Of 3e-4, 1e-3, 3e-3 and 1e-2: 72.9, 73.8, 72.9 and 70.9 (128 pictures per task)."),
)
def proof(model: VLM, *, exemplars: Count = 20, contexts: Natural = 3, seed: Seed = 0) -> Plugins:
    """PROOF: per-task linear projections of both towers' features, summed, and self-attention over an image, the texts
    and prototypes of all classes, and learned contexts; exemplars of old classes are in the training data (Zhou et al.,
    arXiv 2305.19270).

    :class:`~avalanche_vlm.models.heads.trained.ProjectionFusionHead` says how the head answers and where it differs
    from the authors' code, :class:`~avalanche_vlm.training.plugins.projection_fusion.ProjectionFusionPlugin` what the
    loss is. Besides: features of evaluation transforms, computed once, instead of augmented views; the model's scale is
    frozen, where the code trains it; a class that comes again has the mean of all its samples as prototype.

    Published are 3 contexts per task and 20 exemplars per class chosen by herding.

    :param exemplars: number of exemplars per class.
    :param contexts: number of contexts per task, 0 for none.
    :param seed: seed of initial weights, 0 or more.
    """
    bias = 0.0 if model.bias is None else float(model.bias)
    head = ProjectionFusionHead(model.width, contexts, scale=float(model.scale), bias=bias, seed=seed)
    # The plugin sets the budget as classes come.
    memory = ExemplarMemory(max_samples=exemplars, policy="herding", seed=seed)
    return [ProjectionFusionPlugin(model, head, memory, per_class=exemplars)]
