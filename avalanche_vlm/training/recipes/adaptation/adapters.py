"""Adaptation by bottleneck adapters and mixtures of them."""

from __future__ import annotations

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.adapter import AdapterKind, inject_adapters
from avalanche_vlm.models.modules.experts import ExpertSite, inject_experts
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.routers import create_router
from avalanche_vlm.training.plugins import ModulePerTaskPlugin
from avalanche_vlm.training.plugins.experts import SharedExpertsPlugin
from avalanche_vlm.training.recipes.declaration import Paper, Plugins, Published, Tuned
from avalanche_vlm.training.recipes.facts import MODULES
from avalanche_vlm.training.recipes.gating import gated_router
from avalanche_vlm.training.recipes.ranges import Inner, Members, Natural, NonNegative, PartialShare, Positive, Width
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "adapter-per-task",
    family="PEA",
    summary="bottleneck adapters per task, behind a router",
    image_tower="transformer",
    paper=[Paper("2205.13535", "the parallel adapter"), Paper("1902.00751", "the sequential one")],
    training=[
        Published(
            source="AdaptFormer's paper (arXiv 2205.13535)",
            benchmark="single image data sets",
            optimizer="SGD",
            lr=0.1,
            lr_batch=256,
            weight_decay=0.0,
            momentum=0.9,
            schedule="cosine",
            warmup_epochs=20,
            epochs=100,
        )
    ],
    adamw=MODULES,
    picturebook=Tuned(lr=1e-2, how="Of 3e-3, 1e-2 and 3e-2: 73.0, 83.0 and 83.8 (four tasks of 256 pictures)."),
)
def adapter_per_task(
    model: VLM,
    *,
    bottleneck: Width = 64,
    scale: Positive = 0.1,
    dropout: PartialShare = 0.1,
    kind: AdapterKind = "parallel",
    router: str = "prototype",
    quantile: Inner = 0.95,
) -> Plugins:
    """One adapter per task beside every MLP of a frozen image tower, chosen by a router, so that no task id is needed;
    what belongs to no task is left to the pretrained model.

    The adapters are AdaptFormer's with its published settings (Chen et al., arXiv 2205.13535: bottleneck 64, scale 0.1,
    dropout 0.1). As in the paper's eq. 2 they read what the MLP reads, after normalisation; the authors' code reads
    before it. One set of adapters per task and the router are the survey's pool of modules, and not that paper's.

    :param bottleneck: inner width of every adapter.
    :param scale: scale of what an adapter adds.
    :param dropout: dropout of inner values, in training.
    :param kind: place of an adapter: ``"parallel"`` to the MLP or ``"sequential"``, after it (Houlsby et al., arXiv
        1902.00751, whose scale is 1).
    :param router: name of the router that chooses the task.
    :param quantile: share of a task's own samples that its threshold lets in, between 0 and 1.
    """
    guide = create_router(router, quantile=quantile)
    sites = inject_adapters(model.tower("image"), bottleneck=bottleneck, scale=scale, dropout=dropout, kind=kind)
    return [ModulePerTaskPlugin(model, named("image", sites), guide)]


@recipe(
    "moe-adapters",
    family="PEA",
    summary="a mixture of experts with a gate per task, behind a router",
    kinds=["classes"],
    image_tower="transformer",
    paper=["2403.11549"],
    training=[
        Published(
            source="the authors' code, mtil/scripts/train and mtil/src/args.py",
            benchmark="MTIL",
            optimizer="AdamW",
            lr=1e-3,
            weight_decay=0.0,
            schedule="cosine",
            warmup=100,
            label_smoothing=0.2,
            iterations=1000,
            batch_size=64,
            at=("mtil",),
            rates={"Aircraft": 5e-3, "CIFAR100": 5e-3, "EuroSAT": 1e-4, "MNIST": 1e-4},
            train_templates="first",
            note="5e-3 on Aircraft and CIFAR100, 1e-4 on EuroSAT and MNIST; with 5 shots from 1e-4 to 1e-2",
        ),
        Published(
            source="the authors' code, cil/configs/class and cil/continual_clip/models.py",
            benchmark="class-incremental CIFAR100",
            optimizer="AdamW",
            lr=1e-3,
            weight_decay=0.0,
            schedule="cosine",
            warmup=30,
            label_smoothing=0.0,
            epochs=1,
            batch_size=128,
            note="batches of 64 on CIFAR100 in 50 tasks and on TinyImageNet",
        ),
    ],
    picturebook=Tuned(
        lr=1e-2,
        how="Of 3e-3, 1e-2 and 3e-2: 70.6, 75.4 and 78.4 (four tasks of 256 pictures). At 3e-2 its tasks lost three of "
        "these points again.",
    ),
)
def moe_adapters(
    model: VLM,
    *,
    experts: Members = 22,
    k: Members = 2,
    bottleneck: Width = 64,
    scale: Positive = 0.1,
    dropout: PartialShare = 0.1,
    freeze: Natural = 2,
    balance: NonNegative = 0.01,
    router: str = "autoencoder",
    reference: ReferencePairs | None = None,
    quantile: Inner = 0.95,
    ood_accepted: Inner = 0.01,
) -> Plugins:
    """MoE-Adapters: 22 adapters beside every MLP of both frozen towers, a gate per task that gives every sample two of
    them, and an autoencoder per task that chooses the gate or leaves a sample to the pretrained model (Yu et al., arXiv
    2403.11549).

    The experts belong to all tasks. After each task the two that its samples chose most often freeze in every place;
    the others go on training, so what an old task answers can still drift where its gate uses them. That is the
    published method. Eleven tasks, as published, can freeze all 22 experts; from then on new tasks train gates alone.
    The gate reads a sample's first token. In a causal text tower that is the start token, which sees nothing but itself
    and is the same in all texts: there a gate gives one pair of experts to all texts of its task, here as in the
    authors' code.

    Differs from the authors' code: the load balance is in the loss. There it is computed in every block (weights 0.01)
    and never added to what is minimised; ``balance=0`` trains what the code trains. Its variances are those of all
    experts, where the code's are those of a sample of experts. Experts and gate read what the MLP reads, after
    normalisation, where the code reads before it. The router works on the VLM's own features, one sample at a time,
    where the code takes AlexNet's and sends a whole batch by its mean error. There a first autoencoder, trained on
    TinyImageNet, draws what is unknown to all tasks; here a :class:`~avalanche_vlm.models.routers.ReferenceGate` tells
    samples like the reference from those of the task.

    :param experts: number of experts in every place.
    :param k: experts that work on a sample, at most all.
    :param bottleneck: inner width of every adapter.
    :param scale: scale of what an adapter adds.
    :param dropout: dropout of inner values, in training.
    :param freeze: experts that freeze per place and task.
    :param balance: weight of the load balance, 0 or more.
    :param router: name of the router that chooses the task.
    :param reference: pictures that no task should answer; without them the threshold alone keeps out-of-distribution
        samples out.
    :param quantile: share of a task's own samples that its threshold lets in, between 0 and 1.
    :param ood_accepted: share of samples like the reference that may go to some task.
    """
    guide = gated_router(router, model, reference, ood_accepted, quantile=quantile)
    sites: dict[str, ExpertSite] = {}
    for tower in ("image", "text"):
        injected = inject_experts(
            model.tower(tower), experts=experts, k=k, bottleneck=bottleneck, scale=scale, dropout=dropout
        )
        sites |= named(tower, injected)
    return [
        ModulePerTaskPlugin(model, sites, guide),
        SharedExpertsPlugin(sites, balance=balance, freeze=freeze),
    ]
