"""Parameter-efficient adaptation (PEA) by bottleneck adapters and mixtures of them."""

from __future__ import annotations

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.adapter import inject_adapters
from avalanche_vlm.models.modules.experts import inject_experts
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.routers import ReferenceGate, create_router
from avalanche_vlm.training.data import reference_features
from avalanche_vlm.training.plugins import ModulePerTaskPlugin
from avalanche_vlm.training.plugins.experts import SharedExpertsPlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe


@recipe("adapter-per-task", family="PEA")
def adapter_per_task(
    model: VLM,
    *,
    bottleneck: int = 64,
    scale: float = 0.1,
    dropout: float = 0.1,
    kind: str = "parallel",
    router: str = "prototype",
    quantile: float = 0.95,
) -> Plugins:
    """One adapter per task beside every MLP of a frozen image tower, chosen by a router, so that no task id is needed;
    what belongs to no task is left to the pretrained model.

    The adapters are AdaptFormer's with its published settings (Chen et al., arXiv 2205.13535: bottleneck 64, scale 0.1,
    dropout 0.1; SGD with momentum 0.9 at rate 0.1 per 256 samples, no weight decay, 100 epochs, 20 of them warm-up,
    then cosine). As in the paper's eq. 2 they read what the MLP reads, after normalisation; the authors' code reads
    before it. One set of adapters per task and the router are the survey's pool of modules, and not that paper's.

    :param bottleneck: inner width of every adapter.
    :param scale: of what an adapter adds.
    :param dropout: of inner values, in training.
    :param kind: ``parallel`` to the MLP or ``sequential``, after it (Houlsby et al., arXiv 1902.00751, whose scale is
        1).
    :param router: that chooses the task, by name.
    :param quantile: share of a task's own samples that its border lets in.
    """
    guide = create_router(router, quantile=quantile)
    sites = inject_adapters(model.tower("image"), bottleneck=bottleneck, scale=scale, dropout=dropout, kind=kind)
    return [ModulePerTaskPlugin(model, named("image", sites), guide)]


@recipe("moe-adapters", family="PEA", kinds=("classes",))
def moe_adapters(
    model: VLM,
    *,
    experts: int = 22,
    k: int = 2,
    bottleneck: int = 64,
    scale: float = 0.1,
    dropout: float = 0.1,
    freeze: int = 2,
    balance: float = 0.01,
    router: str = "autoencoder",
    reference: ReferencePairs | None = None,
    quantile: float = 0.95,
    strangers: float = 0.01,
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

    Published settings: AdamW without weight decay, 1000 iterations at batches of 64, cosine after 100 iterations of
    warm-up, label smoothing 0.2, and a rate per data set: 1e-3 for most, 5e-3 for Aircraft and CIFAR100, 1e-4 for
    EuroSAT and MNIST.

    :param experts: in every place.
    :param k: how many of them work on a sample.
    :param bottleneck: inner width of every adapter.
    :param scale: of what an adapter adds.
    :param dropout: of inner values, in training.
    :param freeze: experts that freeze per place and task.
    :param balance: weight of the load balance.
    :param router: that chooses the task, by name.
    :param reference: pictures that no task should answer; without them the border alone keeps strangers out.
    :param quantile: share of a task's own samples that its border lets in.
    :param strangers: share of samples like the reference that may go to some task.
    """
    guide = create_router(router, quantile=quantile)
    if reference is not None:
        guide = ReferenceGate(guide, reference_features(model, reference), strangers)
    settings = {"experts": experts, "k": k, "bottleneck": bottleneck, "scale": scale, "dropout": dropout}
    sites = {}
    for tower in ("image", "text"):
        sites |= named(tower, inject_experts(model.tower(tower), **settings))
    return [
        ModulePerTaskPlugin(model, sites, guide),
        SharedExpertsPlugin(sites, balance=balance, freeze=freeze),
    ]
