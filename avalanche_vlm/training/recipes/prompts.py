"""Parameter-efficient adaptation (PEA) by prompts."""

from __future__ import annotations

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.coupled import inject_coupled_prompts
from avalanche_vlm.models.modules.key_value import CalibratedPool, inject_key_values
from avalanche_vlm.models.modules.site import named
from avalanche_vlm.models.modules.tokens import inject_image_prompts, inject_text_prompts
from avalanche_vlm.models.routers import ReferenceGate, create_router
from avalanche_vlm.training.data import reference_features
from avalanche_vlm.training.plugins.module_per_task import ModulePerTaskPlugin
from avalanche_vlm.training.plugins.shared_module import SharedModulePlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe


@recipe("coop", family="PEA", kinds=("classes",))
def coop(model: VLM, *, length: int = 4, words: str = "") -> Plugins:
    """CoOp: a learned context in front of every prompt, both towers frozen (Zhou et al., arXiv 2109.01134). One context
    for all classes, trained on every task in turn: the sequential baseline of class-incremental papers.

    Differs from the paper: the context comes before the benchmark's whole prompt, so that results keep their templates;
    the paper has ``[V]..[V] name.``, which is ours with the template ``{}``. Its class-specific contexts are left out,
    which know nothing of classes to come.

    Published settings: 16 vectors, or 4 that start as "a photo of a"; SGD at 0.002 with cosine after one epoch of
    warm-up, 50 to 200 epochs at batches of 32. Longer contexts leave less room to the prompts: 4 is what the shipped
    tiny model's captions leave. With AdamW, 1e-3 to 3e-3 is a start.

    :param length: vectors of the context.
    :param words: what they start as, at least as many tokens; empty for random vectors.
    """
    return [SharedModulePlugin(model, named("text", inject_text_prompts(model, length=length, words=words)))]


@recipe("maple", family="PEA", kinds=("classes",))
def maple(model: VLM, *, length: int = 2, depth: int = 9, words: str = "a photo of a") -> Plugins:
    """MaPLe: deep text prompts, and visual prompts that are linear functions of them (Khattak et al., arXiv
    2210.03117). One module, trained on every task in turn: the sequential baseline of class-incremental papers.

    Differs from the authors' code: visual prompts enter behind the image tower's first normalisation, the same place in
    towers that have none, and not before it; the context comes before the benchmark's whole prompt, as in ``coop``.

    Published settings: 2 vectors in each of the first 9 of 12 blocks, the first ones "a photo" of "a photo of a"; SGD
    at 0.0035 with cosine after one epoch of warm-up, 5 epochs at batches of 4. With AdamW, 1e-3 to 3e-3 is a start.

    :param length: vectors per block in either tower.
    :param depth: the first blocks, which get vectors of their own; at most as many as the shorter tower has.
    :param words: what the context starts as, at least as many tokens as its length; empty for random vectors.
    """
    return [
        SharedModulePlugin(model, named("text", inject_coupled_prompts(model, length=length, depth=depth, words=words)))
    ]


@recipe("s-prompts", family="PEA", kinds=("classes",))
def s_prompts(
    model: VLM,
    *,
    image_length: int = 10,
    text_length: int = 4,
    words: str = "",
    centres: int = 5,
    reference: ReferencePairs | None = None,
    quantile: float = 0.95,
    strangers: float = 0.001,
) -> Plugins:
    """S-liPrompts: per task shallow visual prompts and a learned context, of which the nearest k-means centre of the
    plain image features chooses (Wang et al., arXiv 2207.12819).

    Differs from the paper, where every sample goes to some task: what looks like the reference pictures rather than
    like that task is left to the pretrained model (:class:`~avalanche_vlm.models.routers.ReferenceGate`), and what lies
    beyond the border of all tasks; without a reference the latter alone, which keeps far fewer strangers out. Visual
    prompts come last in the sequence and behind the first normalisation, in the authors' code behind the class token
    and before it; the context comes before the benchmark's whole prompt, as in ``coop``. The distance is the sum of
    absolute differences, as in the code.

    Published settings: 10 visual vectors, 16 of context; SGD at 0.01 with momentum 0.9, weight decay 2e-4 and cosine,
    10 epochs on DomainNet at batches of 128 (up to 50 elsewhere). With AdamW, 1e-2 to 1e-1 is a start: random vectors
    among few tokens are in the way at first, and have to be unlearned.

    :param image_length: vectors in the image tower.
    :param text_length: vectors of the context; longer ones leave less room to the prompts.
    :param words: what the context starts as, at least as many tokens; empty for random vectors, as published.
    :param centres: of k-means per task.
    :param reference: pictures that no task should answer.
    :param quantile: share of a task's own samples that its border lets in.
    :param strangers: share of samples like the reference that may go to some task.
    """
    router = create_router("kmeans", centres=centres, quantile=quantile)
    if reference is not None:
        router = ReferenceGate(router, reference_features(model, reference), strangers)
    sites = named("image", inject_image_prompts(model.tower("image"), length=image_length))
    sites |= named("text", inject_text_prompts(model, length=text_length, words=words))
    return [ModulePerTaskPlugin(model, sites, router)]


@recipe("diki", family="PEA", kinds=("classes",))
def diki(model: VLM, *, length: int = 8, depth: int = 8, quantile: float = 0.95, shrinkage: float = 0.1) -> Plugins:
    """DIKI: per task residual key/value prompts in the first blocks of both towers, which start by changing nothing. At
    prediction they count by the sample's likelihood under the task's Gaussian (Tang et al., arXiv 2407.05342).

    Differs from the authors' code, which places the batch by its majority and weighs texts by its mean: every sample is
    placed by itself, images have their own weight, and a task's texts its prompts in full. What lies beyond the border
    of all tasks is left to the pretrained model, where the paper trusts the weight alone.

    Published settings: 8 pairs in 8 of 12 blocks; SGD at 5 with cosine, 10 epochs at batches of 128. That rate is for
    values that start at zero under plain gradients; with AdamW, 1e-2 to 3e-2 is a start.

    :param length: pairs per block.
    :param depth: the first blocks, which have them; at most all of a tower.
    :param quantile: share of a task's own samples that its border lets in.
    :param shrinkage: of the Gaussians' covariance.
    """
    image = inject_key_values(model.tower("image"), length=length, depth=depth)
    text = inject_key_values(model.tower("text"), length=length, depth=depth)
    router = create_router("gaussian", quantile=quantile, shrinkage=shrinkage)
    plugin = ModulePerTaskPlugin(model, named("image", image) | named("text", text), router)
    model.routed = CalibratedPool(plugin.pool, router, image.values()).train(model.training)
    return [plugin]
