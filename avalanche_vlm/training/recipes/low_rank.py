"""Low-rank changes that end in the weights: cross-modal regularization (CREG), and KeepLoRA's adaptation (PEA)."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import nn

from avalanche_vlm.losses.features import contrastive_knowledge_consolidation
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import ATTENTION_PATTERN
from avalanche_vlm.training.plugins import Comparison, DistillationPlugin, MergedLowRankPlugin
from avalanche_vlm.training.plugins.subspace_lora import SubspaceLoRAPlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe
from avalanche_vlm.training.reference import CurrentBatch
from avalanche_vlm.training.teachers import PreviousTeacher


@recipe("nusa", family="CREG")
def nusa(model: VLM, *, rank: int = 128, tail_energy: float = 0.05) -> Plugins:
    """NuSA-CL: every task changes the weights only in the singular directions that they use least, and the change is
    merged at its end (Jo and Kim, arXiv 2510.21175).

    ``dW = U_n M V_n^T`` on q, k, v and the output of attention in every block of both towers; ``U_n`` and ``V_n`` are
    taken anew from the merged weights as a task starts. Nothing is stored. The published 1.5 million parameters on
    ViT-B/16 are 96 matrices M of 128 x 128, which is four in each of the 24 blocks of both towers: that these are the
    four of attention is our reading. The authors published no code that we could find.

    Differs from the paper: the share of a weight's energy that counts as its tail is ours. It matters for layers that
    are not much wider than the rank, which would otherwise have no head that is held. q, k and v are three weights, as
    they are in the forward pass, where open_clip stores them as one.

    :param rank: directions per weight at most.
    :param tail_energy: share of a weight's squared singular values that these directions may hold, in (0, 1].
    """
    return [MergedLowRankPlugin(model, rank=rank, pattern=ATTENTION_PATTERN, init="tail", tail_energy=tail_energy)]


@recipe("keeplora", family="PEA")
def keeplora(
    model: VLM,
    *,
    rank: int = 16,
    alpha: float = 1.0,
    image_energy: float = 0.85,
    text_energy: float = 0.2,
    feature_energy: float = 0.99,
) -> Plugins:
    """KeepLoRA: LoRA on all four projections of attention in every block of both towers, whose inputs keep out of the
    principal subspace of the pretrained weights and of the main directions of past tasks' features; merged at a task's
    end (Luo et al., "KeepLoRA: Continual Learning with Residual Gradient Adaptation", ICLR 2026, arXiv 2601.19659).

    In the paper's equations, with weights transposed to ours: ``W_p`` holds a share ``eps_w`` of ``||W||^2``; ``M_t``
    grows by the first singular vectors of ``X_t`` without its part in ``[W_p, M_(t-1)]``, up to a share ``eps_f``; the
    projected gradient ``G - W_p W_p^T G - M M^T G`` has the singular value decomposition whose first left vectors are
    the frozen ``A``. Proposition 3.1: training ``B`` alone is gradient descent projected onto the span of ``A``.

    Differs from the paper, without consequence: its ``B`` starts at ``S V^T`` and the weight gives up the same product,
    so that the model starts as it was. With ``A`` fixed the gradient of ``B`` does not depend on where ``B`` starts;
    only weight decay does. Here ``B`` starts at zero, and weight decay pulls towards the weights before the task.

    Differs from the authors' code, where that differs from the paper: there ``W_p`` is of the left singular vectors of
    torch's ``[out, in]`` weight, which are directions of its outputs, while all that is projected are inputs; here as
    in the paper. There features are averaged over batches, position by position, before their directions are taken;
    here all are counted, in one covariance. There one direction less than the share takes is kept of a weight. The
    decomposition here is exact, and the features are read under the evaluation transforms. The gradient is the mean
    over the batches of one pass through the training data, as there.

    KeepLoRA+ (a cosine classifier beside it) is not here. On class-labelled streams the texts of a task are the prompts
    of its classes, on pairs its captions.

    Published settings (MTIL): AdamW, learning rate 1e-3, weight decay 0.01, one cycle, batch 64, 5 to 10 epochs a task.

    :param rank: of LoRA; fewer where the projected gradient has fewer directions.
    :param alpha: scale times rank.
    :param image_energy: share of the image tower's pretrained weights that is protected, in [0, 1].
    :param text_energy: the same of the text tower.
    :param feature_energy: share of the energy of every past task's features that is protected, in [0, 1].
    """
    shares = {"image": image_energy, "text": text_energy}
    return [SubspaceLoRAPlugin(model, rank=rank, alpha=alpha, weight_energy=shares, feature_energy=feature_energy)]


@recipe("c-clip", family="CREG")
def c_clip(
    model: VLM,
    *,
    weight: float = 2.0,
    temperature: float = 0.07,
    rank: int = 16,
    alpha: float = 32.0,
    merge: float = 0.5,
    attention: str = "out",
) -> Plugins:
    """C-CLIP: LoRA in both towers, half of which is merged at every task's end, and contrastive knowledge
    consolidation: a sample's projected new feature has to find its feature in the previous model among those of the
    batch (Liu et al., "C-CLIP: Multimodal Continual Learning for Vision-Language Model", ICLR 2025, eq. 2 and 5).

    One projector serves both modalities and is used by the loss alone. As in the paper's ablation (table 5) the
    consolidation counts from the first task on, where the previous model is the pretrained one. Eq. 5 adds the two
    directions, where the task loss (eq. 6) halves their sum: hence the weight of 2. Rank and alpha, twice the rank, are
    published. The layers are not, but the parameter counts of table 6 grow by 0.184 million per rank on ViT-B/16, which
    is LoRA on the output of attention and both layers of the MLP in every block of both towers, and not on q, k and v.

    The authors published no code that we could find. Open in the paper, and ours: the projector is one linear layer
    that starts as the identity in every task; the temperature is that of CLIP's initialisation. Differs from the paper:
    embeddings do not train (there they hold 26 of the 29 million trained parameters), LoRA has no dropout, and both
    towers have one learning rate, where the paper gives the text tower 10 times the image tower's (80 times on COCO).
    On class-labelled streams the task loss is the strategy's own and the texts are the prompts of the classes.

    Published settings: AdamW with betas 0.9 and 0.99, weight decay 0.2, 40 epochs at batches of 1024, cosine after 5
    epochs of warm-up, base rate 1e-5 on Flickr30K and 3e-5 on later tasks.

    :param weight: of the consolidation, the mean of the two directions.
    :param temperature: divides the cosines of the consolidation.
    :param rank: of LoRA.
    :param alpha: scale times rank.
    :param merge: coefficient of the change that stays, in (0, 1].
    :param attention: projections of attention that have LoRA, of q, k, v, out, with commas between; empty for none.
    """
    loss = _Consolidation(weight, temperature)
    parts = [part.strip() for part in attention.split(",") if part.strip()]
    return [
        MergedLowRankPlugin(model, rank=rank, alpha=alpha, parts=parts, merge=merge),
        loss,
        DistillationPlugin(model, loss, CurrentBatch("batch"), PreviousTeacher()),
    ]


class _Consolidation(SupervisedPlugin):
    """C-CLIP's loss, and as a plugin the life of its projector: one per task, among the model's auxiliary modules."""

    supports_distributed = False

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
        self._projector: nn.Linear | None = None

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        model: VLM = strategy.model
        with model.evaluating():
            width = model.encode_text(model.tokenize([""])).shape[1]
        self._projector = nn.Linear(width, width).to(model.device)
        nn.init.eye_(self._projector.weight)
        nn.init.zeros_(self._projector.bias)
        model.auxiliary["projector"] = self._projector

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        del strategy.model.auxiliary["projector"]
        self._projector = None

    def __call__(self, c: Comparison) -> torch.Tensor:
        return self.weight * contrastive_knowledge_consolidation(
            self._projector(c.student.images),
            self._projector(c.student.paired_texts),
            c.teacher.images,
            c.teacher.paired_texts,
            self.temperature,
        )
