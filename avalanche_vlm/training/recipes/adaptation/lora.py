"""Adaptation by low-rank modules."""

from __future__ import annotations

from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import inject_lora
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.routers import PrototypeRouter
from avalanche_vlm.training.plugins import ModulePerTaskPlugin
from avalanche_vlm.training.plugins.subspace_lora import SubspaceLoRAPlugin
from avalanche_vlm.training.recipes.declaration import Paper, Plugins, Published, Tuned, Unpublished
from avalanche_vlm.training.recipes.facts import MODULES
from avalanche_vlm.training.recipes.ranges import TOWERS, Inner, Positive, Share, SomeShare, Towers, Width
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "lora",
    family="PEA",
    summary="one LoRA per task on a frozen VLM, chosen by a prototype router that needs no task id",
    image_tower="transformer",
    paper=[Paper("2106.09685", "the module"), Paper("1807.03888", "the router's distance")],
    training=[Unpublished("our composition")],
    adamw=MODULES,
    picturebook=Tuned(lr=5e-3, how="Of 2.5e-3, 5e-3 and 1e-2: 80.5, 82.3 and 82.2."),
)
def lora(
    model: VLM, *, rank: Width = 8, alpha: Positive | None = None, quantile: Inner = 0.95, shrinkage: SomeShare = 0.1
) -> Plugins:
    """One LoRA per task on a frozen image tower (Hu et al., arXiv 2106.09685), chosen by a prototype router, so that no
    task id is needed; what belongs to no task is left to the pretrained model.

    :param rank: rank of every module.
    :param alpha: scale times rank; None for the rank itself.
    :param quantile: share of a task's own samples that its threshold lets in, between 0 and 1.
    :param shrinkage: shrinkage of the router's covariance, above 0.
    """
    layers = inject_lora(model.tower("image"), rank=rank, alpha=alpha)
    return [ModulePerTaskPlugin(model, named("image", layers), PrototypeRouter(quantile, shrinkage))]


@recipe(
    "keeplora",
    family="PEA",
    summary="LoRA in directions that neither weights nor past features use, merged per task",
    image_tower="transformer",
    paper=["2601.19659"],
    training=[
        Published(
            source="the authors' code, MTIL/configs/keeplora_order1.yaml and MTIL/trainer/trainer.py",
            benchmark="MTIL",
            optimizer="AdamW",
            lr=1e-3,
            weight_decay=0.01,
            schedule="one cycle",
            label_smoothing=0.0,
            epochs=(5, 10),
            batch_size=64,
            note="5 epochs on SUN397",
        )
    ],
    picturebook=Tuned(
        lr=1e-1,
        how="Of 5e-3, 2e-2, 5e-2, 1e-1 and 2e-1: 58.6, 71.6, 79.2, 84.6 and 83.2 (four tasks of 256 pictures).",
    ),
)
def keeplora(
    model: VLM,
    *,
    rank: Width = 16,
    alpha: Positive = 1.0,
    image_energy: Share = 0.85,
    text_energy: Share = 0.2,
    feature_energy: Share = 0.99,
    towers: Towers = "both",
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

    :param rank: rank of LoRA; fewer where the projected gradient has fewer directions.
    :param alpha: scale times rank, above 0.
    :param image_energy: share of the image tower's pretrained weights that is protected.
    :param text_energy: share of the text tower's pretrained weights that is protected.
    :param feature_energy: share of the energy of every past task's features that is protected.
    :param towers: the towers that change; one that is frozen in the model stays as it is.
    """
    plugin = SubspaceLoRAPlugin(
        model,
        towers=TOWERS[towers],
        rank=rank,
        alpha=alpha,
        weight_energy={"image": image_energy, "text": text_energy},
        feature_energy=feature_energy,
    )
    return [plugin]
