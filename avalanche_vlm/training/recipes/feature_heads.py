"""Parameter-efficient adaptation (PEA) by heads that train on the features of a frozen VLM."""

from __future__ import annotations

from avalanche_vlm.memory import ExemplarMemory, FeatureMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.trained import LabelSpecificHead, ProjectionFusionHead
from avalanche_vlm.models.modules.query_prompts.path import query_width
from avalanche_vlm.training.plugins.label_specific import LabelSpecificPlugin
from avalanche_vlm.training.plugins.projection_fusion import ProjectionFusionPlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe


@recipe("lada", family="PEA", kinds=("classes",))
def lada(
    model: VLM,
    *,
    units: int = 16,
    components: int = 4,
    alpha: float = 1.0,
    beta: float = 1.0,
    bottleneck: int = 16,
    batch_size: int = 64,
    max_bytes: int = 1 << 22,
    seed: int = 0,
) -> Plugins:
    """LADA: memory units of every class behind a frozen image tower, which start as k-means centres, beside texts that
    are adapted task by task; old classes come back as features drawn from Gaussian mixtures (Luo et al., arXiv
    2505.23271).

    :class:`~avalanche_vlm.models.heads.trained.LabelSpecificHead` has the equation and says how the head decides,
    :class:`~avalanche_vlm.training.plugins.label_specific.LabelSpecificPlugin` how it is trained. Published settings:
    16 units, 4 components, text adapters (AdaptFormer) of bottleneck 16 and scale 0.1; AdamW at 1e-3 with weight decay
    5e-4 and one cycle per task, batches of 64, 5 to 200 epochs by data set. ``alpha`` and ``beta`` are the defaults of
    the authors' code, which we saw in others' copies.

    Differs from it: features of evaluation transforms, computed once, instead of augmented views; mixtures of
    unit-length features with a variance per dimension, where the code fits spherical ones to features of any length;
    their components drawn by their shares, where the code draws one of each and weighs it by its share; the two losses
    weigh as many classes as are behind them (eq. 10), where the code weighs old classes 64 times their share; logits of
    classes with fewer or more units than others are scaled to the same number.

    :param units: per class.
    :param components: of the mixture of every class.
    :param alpha: weight of the units' logits.
    :param beta: sharpness of the units.
    :param bottleneck: of the text adapters; 0 leaves texts as they are, as it has to be where the text tower has no
        MLP to hang them on.
    :param batch_size: drawn features per iteration, where old classes compete with new ones.
    :param max_bytes: budget of the mixtures; over it they become coarser. The units come on top.
    :param seed: of clustering and draws.
    """
    bias = 0.0 if model.bias is None else float(model.bias)
    head = LabelSpecificHead(units, alpha, beta, scale=float(model.scale), bias=bias)
    memory = FeatureMemory("gmm", components=components, max_bytes=max_bytes, seed=seed)
    return [LabelSpecificPlugin(model, head, memory, bottleneck=bottleneck, batch_size=batch_size, seed=seed)]


@recipe("proof", family="PEA", kinds=("classes",))
def proof(model: VLM, *, exemplars: int = 20, contexts: int = 3, seed: int = 0) -> Plugins:
    """PROOF: per-task linear projections of both towers' features, summed, and self-attention over an image, the texts
    and prototypes of all classes, and learned contexts; exemplars of old classes are in the training data (Zhou et al.,
    arXiv 2305.19270).

    :class:`~avalanche_vlm.models.heads.trained.ProjectionFusionHead` says how the head answers and where it differs
    from the authors' code, :class:`~avalanche_vlm.training.plugins.projection_fusion.ProjectionFusionPlugin` what the
    loss is. Besides: features of evaluation transforms, computed once, instead of augmented views; the model's scale is
    frozen, where the code trains it; a class that comes again has the mean of all its samples as prototype.

    Published settings: 3 contexts per task, 20 exemplars per class chosen by herding; SGD at 1e-3 with momentum 0.9,
    weight decay 0.05 and cosine, 5 epochs at batches of 64.

    :param exemplars: per class.
    :param contexts: per task.
    :param seed: of initial weights.
    """
    bias = 0.0 if model.bias is None else float(model.bias)
    head = ProjectionFusionHead(query_width(model), contexts, scale=float(model.scale), bias=bias, seed=seed)
    # The plugin sets the budget as classes come.
    memory = ExemplarMemory(max_samples=exemplars, policy="herding", seed=seed)
    return [ProjectionFusionPlugin(model, head, memory, per_class=exemplars)]
