"""Adaptation by prompts."""

from __future__ import annotations

from functools import partial

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.coupled import inject_coupled_prompts
from avalanche_vlm.models.modules.key_value import CalibratedPool, inject_key_values
from avalanche_vlm.models.modules.site import Site, named
from avalanche_vlm.models.modules.tokens import inject_image_prompts, inject_text_prompts
from avalanche_vlm.models.routers import GaussianRouter
from avalanche_vlm.training.plugins.module_per_task import ModulePerTaskPlugin
from avalanche_vlm.training.plugins.shared_module import SharedModulePlugin
from avalanche_vlm.training.recipes.declaration import Plugins, Published, Tuned
from avalanche_vlm.training.recipes.facts import MODULES
from avalanche_vlm.training.recipes.gating import gated_router
from avalanche_vlm.training.recipes.ranges import Inner, Members, Share
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "coop",
    family="PEA",
    summary="one learned context in front of every prompt, trained from task to task",
    kinds=["classes"],
    paper=["2109.01134"],
    training=[
        Published(
            source="the authors' code, configs/trainers/CoOp and Dassl's defaults",
            benchmark="single image data sets",
            optimizer="SGD",
            lr=0.002,
            weight_decay=5e-4,
            momentum=0.9,
            schedule="cosine",
            warmup_epochs=1,
            epochs=(50, 200),
            batch_size=32,
            options={"length": 16},
            note="the warm-up is a constant 1e-5; 200 epochs with 8 and 16 shots, 100 with 2 and 4, 50 with one and on "
            'ImageNet; 4 vectors where they start as "a photo of a"',
        )
    ],
    adamw=MODULES,
    picturebook=Tuned(lr=1e-3, how="Best of a few rates on three tasks; 1e-3 to 3e-3 is a start."),
)
def coop(model: VLM, *, length: Members = 4, words: str = "") -> Plugins:
    """CoOp: a learned context in front of every prompt, both towers frozen (Zhou et al., arXiv 2109.01134). One context
    for all classes, trained on every task in turn: the sequential baseline of class-incremental papers.

    Differs from the paper: the context comes before the benchmark's whole prompt, so that results keep their templates;
    the paper has ``[V]..[V] name.``, which is ours with the template ``{}``. Its class-specific contexts are left out,
    which know nothing of classes to come.

    Longer contexts leave less room to the prompts: 4 vectors, where the paper has 16 or 4, is what the shipped tiny
    model's captions leave.

    :param length: number of vectors of the context.
    :param words: text that the context starts as, at least as many tokens; empty for random vectors.
    """
    return [SharedModulePlugin(model, named("text", inject_text_prompts(model, length=length, words=words)))]


@recipe(
    "maple",
    family="PEA",
    summary="one set of coupled prompts in both towers, trained from task to task",
    kinds=["classes"],
    image_tower="transformer",
    paper=["2210.03117"],
    training=[
        Published(
            source="the authors' code, configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml and Dassl's defaults",
            benchmark="single image data sets",
            optimizer="SGD",
            lr=0.0035,
            weight_decay=5e-4,
            momentum=0.9,
            schedule="cosine",
            warmup_epochs=1,
            epochs=5,
            batch_size=4,
            note="the warm-up is a constant 1e-5",
        ),
        Published(
            source="the authors' code, configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx_cross_datasets.yaml",
            benchmark="ImageNet, for other data sets",
            optimizer="SGD",
            lr=0.0026,
            weight_decay=5e-4,
            momentum=0.9,
            schedule="cosine",
            warmup_epochs=1,
            epochs=2,
            batch_size=4,
            options={"depth": 3},
            note="the warm-up is a constant 1e-5",
        ),
    ],
    adamw=MODULES,
    picturebook=Tuned(lr=3e-3, how="Best of a few rates on three tasks; 1e-3 to 3e-3 is a start."),
)
def maple(model: VLM, *, length: Members = 2, depth: Members = 9, words: str = "a photo of a") -> Plugins:
    """MaPLe: deep text prompts, and visual prompts that are linear functions of them (Khattak et al., arXiv
    2210.03117). One module, trained on every task in turn: the sequential baseline of class-incremental papers.

    Differs from the authors' code: visual prompts enter behind the image tower's first normalisation, the same place in
    towers that have none, and not before it; the context comes before the benchmark's whole prompt, as in ``coop``.

    Published settings: 2 vectors in each of the first 9 of 12 blocks, the first ones "a photo" of "a photo of a".

    :param length: vectors per block in either tower.
    :param depth: number of first blocks that get vectors of their own; at most as many as the shorter tower has.
    :param words: text that the context starts as, at least as many tokens as its length; empty for random vectors.
    """
    return [
        SharedModulePlugin(model, named("text", inject_coupled_prompts(model, length=length, depth=depth, words=words)))
    ]


def _s_prompts(config: str, benchmark: str, epochs: int, note: str) -> Published:
    """The settings of one of the authors' configurations; the context has 16 vectors in all of them."""
    return Published(
        source=f"the authors' code, configs/{config} and methods/sprompt.py",
        benchmark=benchmark,
        optimizer="SGD",
        lr=0.01,
        weight_decay=2e-4,
        momentum=0.9,
        schedule="cosine",
        epochs=epochs,
        batch_size=128,
        options={"text_length": 16},
        note=note,
    )


@recipe(
    "s-prompts",
    family="PEA",
    summary="prompts in both towers per task, behind a router",
    kinds=["classes"],
    image_tower="transformer",
    paper=["2207.12819"],
    training=[
        _s_prompts("domainnet_slip.json", "DomainNet", epochs=30, note="weight decay 5e-4 in the first task"),
        _s_prompts("core50_slip.json", "CORe50", epochs=20, note="weight decay 5e-4 in the first task"),
        _s_prompts(
            "cddb_slip.json",
            "CDDB",
            epochs=50,
            note="in the first task 20 epochs at 1e-3 with weight decay 5e-4",
        ),
    ],
    adamw=MODULES,
    picturebook=Tuned(
        lr=1e-1,
        how="Of 3e-2 and 1e-1: 64.2 and 69.0 (four tasks of 256 pictures). The published 10 vectors drown the 17 "
        "tokens of the tiny model's image tower.",
        options={"image_length": 4, "text_length": 2},
    ),
)
def s_prompts(
    model: VLM,
    *,
    image_length: Members = 10,
    text_length: Members = 4,
    words: str = "",
    centres: Members = 5,
    reference: ReferencePairs | None = None,
    quantile: Inner = 0.95,
    ood_accepted: Inner = 0.001,
) -> Plugins:
    """S-liPrompts: per task shallow visual prompts and a learned context, of which the nearest k-means centre of the
    plain image features chooses (Wang et al., arXiv 2207.12819).

    Differs from the paper, where every sample goes to some task: what looks like the reference pictures rather than
    like that task is left to the pretrained model (:class:`~avalanche_vlm.models.routers.ReferenceGate`), and what lies
    beyond the threshold of all tasks; without a reference the latter alone, which keeps far fewer out-of-distribution
    samples out. Visual prompts come last in the sequence and behind the first normalisation, in the authors' code
    behind the class token and before it; the context comes before the benchmark's whole prompt, as in ``coop``. The
    distance is the sum of absolute differences, as in the code.

    Published are 10 visual vectors and 16 of context. With AdamW, 1e-2 to 1e-1 is a start on short sequences: random
    vectors among few tokens are in the way at first, and have to be unlearned.

    :param image_length: number of vectors in the image tower.
    :param text_length: number of vectors of the context; longer ones leave less room to the prompts.
    :param words: text that the context starts as, at least as many tokens; empty for random vectors, as published.
    :param centres: centres of k-means per task.
    :param reference: pictures that no task should answer.
    :param quantile: share of a task's own samples that its threshold lets in, between 0 and 1.
    :param ood_accepted: share of samples like the reference that may go to some task.
    """
    router = gated_router("kmeans", model, reference, ood_accepted, centres=centres, quantile=quantile)
    image = inject_image_prompts(model.tower("image"), length=image_length)
    text = inject_text_prompts(model, length=text_length, words=words)
    sites: dict[str, Site] = {**named("image", image), **named("text", text)}
    return [ModulePerTaskPlugin(model, sites, router)]


@recipe(
    "diki",
    family="PEA",
    summary="residual key/value prompts per task, weighed by a Gaussian of its images",
    kinds=["classes"],
    image_tower="transformer",
    paper=["2407.05342"],
    training=[
        Published(
            source="the authors' code, configs/MTIL.yaml and DIKI/DIKI.py",
            benchmark="MTIL",
            optimizer="SGD",
            lr=5.0,
            weight_decay=0.0,
            momentum=0.0,
            schedule="cosine",
            warmup=0,
            epochs=10,
            batch_size=128,
            note="for values that start at zero, under plain gradients; the same with 16 shots",
        )
    ],
    adamw=MODULES,
    picturebook=Tuned(lr=3e-2, how="Best of a few rates on three tasks; 1e-2 to 3e-2 is a start."),
)
def diki(
    model: VLM, *, length: Members = 8, depth: Members = 8, quantile: Inner = 0.95, shrinkage: Share = 0.1
) -> Plugins:
    """DIKI: per task residual key/value prompts in the first blocks of both towers, which start by changing nothing. At
    prediction they count by the sample's likelihood under the task's Gaussian (Tang et al., arXiv 2407.05342).

    Differs from the authors' code, which places the batch by its majority and weighs texts by its mean: every sample is
    placed by itself, images have their own weight, and a task's texts its prompts in full. What lies beyond the
    threshold of all tasks is left to the pretrained model, where the paper trusts the weight alone.

    Published are 8 pairs in 8 of 12 blocks.

    :param length: key/value pairs per block.
    :param depth: number of first blocks that have them; at most all of a tower.
    :param quantile: share of a task's own samples that its threshold lets in, between 0 and 1.
    :param shrinkage: shrinkage of the Gaussians' covariance, from 0 to 1.
    """
    image = inject_key_values(model.tower("image"), length=length, depth=depth)
    text = inject_key_values(model.tower("text"), length=length, depth=depth)
    router = GaussianRouter(quantile, shrinkage)
    sites = named("image", image) | named("text", text)
    return [ModulePerTaskPlugin(model, sites, router, partial(CalibratedPool, layers=image.values()))]
