"""Adaptation by prompts that every sample's own query selects or weighs.

Of all three: the query is the plain feature of the frozen image tower, a sample is prompted for itself, never by what
else is in its batch, and the answer is the zero-shot head over the frozen text tower, where the papers train a linear
head. There is no gate: every image is prompted, those of no trained task too, so zero-shot abilities erode. Take a
routed pool of modules (``lora`` and its like) where they have to stay.

The papers train with Adam; AdamW without weight decay is the same. With weight decay, prompts that a task still trains
shrink, and frozen ones do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.query_prompts import CodaPromptPool, DualPromptPool, L2PPool
from avalanche_vlm.models.modules.query_prompts.l2p import Selection
from avalanche_vlm.training.plugins.query_prompts import QueryPromptPlugin
from avalanche_vlm.training.recipes.declaration import Plugins, Published, Tuned
from avalanche_vlm.training.recipes.ranges import Members, NonNegative
from avalanche_vlm.training.recipes.registry import recipe


@recipe(
    "l2p",
    family="PEA",
    summary="every image selects prompts from one pool by its own feature",
    image_tower="transformer",
    paper=["2112.08654"],
    training=[
        Published(
            source="the authors' code, configs/cifar100_l2p.py",
            benchmark="split CIFAR100",
            optimizer="Adam",
            lr=0.03,
            lr_batch=256,
            weight_decay=0.0,
            schedule="constant",
            max_grad_norm=1.0,
            epochs=5,
            note="16 samples per device",
        ),
        Published(
            source="the authors' code, configs/five_datasets_l2p.py",
            benchmark="5-datasets",
            optimizer="Adam",
            lr=0.03,
            lr_batch=256,
            weight_decay=0.0,
            schedule="constant",
            max_grad_norm=1.0,
            epochs=5,
            options={"size": 20, "weight": 0.5},
            note="16 samples per device; a task trains prompts that are reserved for it",
        ),
    ],
    picturebook=Tuned(
        lr=1e-2,
        how="Best of a few rates on three tasks. The published 40 vectors drown the 17 tokens of the tiny model's "
        "image tower.",
        options={"length": 2, "chosen": 2},
    ),
)
def l2p(
    model: VLM,
    *,
    size: Members = 10,
    length: Members = 10,
    chosen: Members = 4,
    weight: NonNegative = 1.0,
    selection: Selection = "nearest",
) -> Plugins:
    """L2P: one pool of prompts for all tasks; the few whose keys are nearest to an image stand in front of its tokens,
    and their keys are pulled towards it (Wang et al., arXiv 2112.08654, eq. 1 to 5).

    Defaults are those of the authors' code for split CIFAR-100.

    Differs from the paper: a frozen text head in the place of a trained linear head, fed with the tower's own pooled
    output where the paper averages the outputs of the prompts, which CLIP was not trained to read. Differs from the
    authors' code: no vote of the batch on its prompts, no reservation of prompts for a task in training. Zero-shot
    abilities are not guarded.

    :param size: number of prompts in the pool.
    :param length: number of vectors per prompt.
    :param chosen: prompts per image, at most all.
    :param weight: weight of the distances of the chosen keys.
    :param selection: selection in training, ``"nearest"`` or ``"diverse"`` (distances times how often earlier tasks
        have used a prompt, eq. 4).
    """
    pool = L2PPool(model.tower("image"), model.width, size=size, length=length, chosen=chosen, selection=selection)
    return [QueryPromptPlugin(model, pool, weight)]


@recipe(
    "dualprompt",
    family="PEA",
    summary="prefixes of attention, one for all tasks and one per task, which every image selects by its own feature",
    image_tower="transformer",
    paper=["2204.04799"],
    training=[
        Published(
            source="the authors' code, configs/imr_dualprompt.py",
            benchmark="split ImageNet-R",
            optimizer="Adam",
            lr=0.005,
            lr_batch=256,
            weight_decay=0.0,
            schedule="constant",
            max_grad_norm=1.0,
            epochs=50,
            note="24 samples per device",
        ),
        Published(
            source="the authors' code, configs/cifar100_dualprompt.py",
            benchmark="split CIFAR100",
            optimizer="Adam",
            lr=0.03,
            lr_batch=256,
            weight_decay=0.0,
            schedule="constant",
            max_grad_norm=1.0,
            epochs=5,
            options={"task_length": 5},
            note="24 samples per device",
        ),
    ],
    picturebook=Tuned(lr=3e-2, how="Best of a few rates on three tasks."),
)
def dualprompt(
    model: VLM,
    *,
    shared_blocks: Members = 2,
    task_blocks: Members = 3,
    shared_length: Members = 5,
    task_length: Members = 20,
    weight: NonNegative = 1.0,
) -> Plugins:
    """DualPrompt: prefixes of attention, one for all tasks in blocks 1 and 2 and one per task in blocks 3 to 5, chosen
    at prediction by the nearest of the tasks' keys (Wang et al., arXiv 2204.04799).

    Defaults are those of the paper and of the authors' code for split ImageNet-R. Of a tower with fewer than five
    blocks, all that are left after the shared ones have task prompts.

    Follows the code where it differs from the paper: a prefix of length L is L keys and L values behind the
    projections. Differs from both: a frozen text head in the place of a trained linear head. Differs from the code: no
    vote of the batch (for CIFAR-100), and the pool grows with the tasks instead of having a fixed size. Zero-shot
    abilities are not guarded.

    :param shared_blocks: number of blocks with the shared prompt, from the first on.
    :param task_blocks: number of blocks with the tasks' prompts, after them.
    :param shared_length: length of the shared prompt in a block.
    :param task_length: length of a task's prompt in a block.
    :param weight: weight of the distances from the task's key.
    """
    pool = DualPromptPool(
        model.tower("image"),
        model.width,
        shared_blocks=shared_blocks,
        task_blocks=task_blocks,
        shared_length=shared_length,
        task_length=task_length,
    )
    return [QueryPromptPlugin(model, pool, weight)]


def _coda_prompt(
    config: str, benchmark: str, epochs: int, note: str = "", options: Mapping[str, Any] | None = None
) -> Published:
    """The settings of one of the authors' configurations; in all of them the penalty is switched off by now."""
    return Published(
        source=f"the authors' code, configs/{config}_prompt.yaml and experiments",
        benchmark=benchmark,
        optimizer="Adam",
        lr=1e-3,
        weight_decay=0.0,
        schedule="cosine",
        epochs=epochs,
        batch_size=128,
        options={"weight": 0.0, **(options or {})},
        note=note,
    )


@recipe(
    "coda-prompt",
    family="PEA",
    summary="prefixes of attention as sums of components, which every image weighs by its own feature",
    image_tower="transformer",
    paper=["2211.13218"],
    training=[
        _coda_prompt("cifar-100", "split CIFAR100", epochs=20),
        _coda_prompt("imnet-r", "split ImageNet-R", epochs=50, note="5 components per task where there are 20 tasks"),
        _coda_prompt("domainnet", "DomainNet in five tasks", epochs=5, options={"components": 20}),
    ],
    picturebook=Tuned(lr=1e-2, how="Best of a few rates on three tasks."),
)
def coda_prompt(
    model: VLM,
    *,
    components: Members = 10,
    length: Annotated[int, Field(ge=2, le=1000, multiple_of=2)] = 8,
    blocks: Members = 5,
    weight: NonNegative = 0.1,
) -> Plugins:
    """CODA-Prompt: prefixes of attention in blocks 1 to 5 that are sums of components, weighed by an image's attended
    similarity to their keys; a task adds components and freezes all earlier ones (Smith et al., arXiv 2211.13218).

    Published are 100 components for ten tasks, which are 10 per task; a stream need not say here how many tasks it will
    have. Of a tower with fewer than five blocks, all have prompts.

    The weight of orthogonality is the paper's, of a mean over entries as in the code; the revised code, which starts
    new components by Gram-Schmidt as we do, finds that it may be 0. Differs from the paper: a frozen text head in the
    place of a trained linear head. Zero-shot abilities are not guarded.

    :param components: components that a task adds to every block.
    :param length: length of a prompt, half keys and half values, so even.
    :param blocks: number of blocks with prompts, from the first on.
    :param weight: weight of the penalty on components, keys and attention vectors that are not orthonormal.
    """
    pool = CodaPromptPool(model.tower("image"), model.width, components=components, length=length, blocks=blocks)
    return [QueryPromptPlugin(model, pool, weight)]
