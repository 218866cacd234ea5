"""Replay of samples that were copied out of the stream."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.distillation import logit_distillation
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.memory.exemplar_rows import Policy
from avalanche_vlm.memory.mixtures import Mixture
from avalanche_vlm.memory.pixels import Codec
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import (
    Comparison,
    DistillationPlugin,
    ExemplarReplayPlugin,
    NearestMeanPlugin,
    ReferenceReplayPlugin,
)
from avalanche_vlm.training.recipes.declaration import AdamW, Paper, Plugins, Published, Unpublished
from avalanche_vlm.training.recipes.facts import LIKE_FINE_TUNING, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import Bytes, Count, Natural, NonNegative, Positive, Seed, Workplace
from avalanche_vlm.training.recipes.registry import recipe
from avalanche_vlm.training.reference import CurrentBatch
from avalanche_vlm.training.teachers import PreviousTeacher


@recipe(
    "replay",
    family="MMRE",
    summary="exemplars copied out of the stream, bounded in bytes: four policies, raw or encoded, in RAM or on disk",
    paper=[Paper("1611.07725", "the memory"), Paper("2408.14471", "thirds with pretraining pairs")],
    training=[Unpublished("the papers' settings are for other networks or other data than a CLIP's stream of tasks")],
    adamw=LIKE_FINE_TUNING,
    picturebook=WHOLE_TOWERS,
    only_with={"reference": "pretraining"},
)
def replay(
    model: VLM,
    *,
    reference: ReferencePairs | None = None,
    max_bytes: Bytes = 1 << 20,
    policy: Policy = "class-balanced",
    batch_size: Count = 64,
    mixture: Mixture = "uniform",
    codec: Codec = "uint8",
    quality: Annotated[int, Field(ge=1, le=100)] = 90,
    folder: Workplace = "",
    pretraining: Natural = 0,
    augment: bool = True,
    seed: Seed = 0,
) -> Plugins:
    """Experience replay of exemplars that are copied out of the stream (iCaRL's memory, arXiv 1611.07725, with the
    plain task loss on them). With ``pretraining`` pairs beside them the batches are those of FoMo-in-Flux (arXiv
    2408.14471), of equal thirds when all three batch sizes agree.

    :param reference: pairs that stand for the pretraining data; needed with ``pretraining`` only.
    :param max_bytes: budget of the whole memory in bytes.
    :param policy: what stays when the memory is full: ``"class-balanced"``, ``"reservoir"``, ``"herding"`` or
        ``"hardest"``.
    :param batch_size: replayed samples per iteration, besides the new ones.
    :param mixture: shares of past experiences in a replayed batch: ``"uniform"``, ``"equal"``, ``"exponential"`` or
        ``"single"``.
    :param codec: how pictures are kept: as ``"uint8"``, ``"png"`` or ``"jpeg"``.
    :param quality: quality of JPEG, 1 to 100.
    :param folder: folder in which pictures are kept; empty for RAM.
    :param pretraining: reference pairs per iteration, 0 for none.
    :param augment: whether replayed pictures go through the training transform, as new ones do.
    :param seed: seed of what is kept and drawn, 0 or more.
    """
    memory = ExemplarMemory(max_bytes, policy, seed, codec=codec, quality=quality, folder=folder or None)
    plugins: Plugins = [ExemplarReplayPlugin(model, memory, batch_size, mixture, augment=augment)]
    if pretraining:
        if reference is None:
            raise InputError("replay with pretraining pairs needs reference=ReferencePairs(...)")
        plugins.append(ReferenceReplayPlugin(model, reference, pretraining, seed))
    return plugins


@recipe(
    "icarl",
    family="MMRE",
    summary="herded exemplars in quotas, distillation of old classes, nearest mean of exemplars",
    kinds=["classes"],
    train_classes="seen",
    paper=["1611.07725"],
    training=[
        Published(
            source="the paper, section 4",
            benchmark="class-incremental CIFAR100, a ResNet from scratch",
            optimizer="SGD",
            lr=2.0,
            weight_decay=1e-5,
            schedule="steps",
            epochs=70,
            batch_size=128,
            note="the rate is divided by 5 after 49 and 63 epochs",
        ),
        Published(
            source="the paper, section 4",
            benchmark="class-incremental ImageNet, a ResNet-18 from scratch",
            optimizer="SGD",
            lr=2.0,
            weight_decay=1e-5,
            schedule="steps",
            epochs=60,
            batch_size=128,
            note="the rate is divided by 5 after 20, 30, 40 and 50 epochs",
        ),
    ],
    adamw=LIKE_FINE_TUNING,
    picturebook=WHOLE_TOWERS,
)
def icarl(
    model: VLM,
    *,
    max_bytes: Bytes = 1 << 20,
    weight: NonNegative = 1.0,
    temperature: Positive = 2.0,
    seed: Seed = 0,
) -> Plugins:
    """iCaRL on a VLM's features (Rebuffi et al., arXiv 1611.07725): herded exemplars in equal quotas over the classes
    seen, training on the new data united with the exemplars (its algorithm 3), distillation of the old classes from the
    previous model, prediction by the nearest mean of exemplars. In training all classes met so far compete.

    Differs from the paper: the network is a CLIP with its prompts as the head, so the task loss is cross-entropy over
    the label space and not one sigmoid per class; distillation has the temperature of LwF; the budget is in bytes (K
    samples are K times the bytes of one); a sample whose zero-shot answer is a class without exemplars keeps that
    answer. Class-labelled streams only.

    :param max_bytes: budget of the exemplars in bytes; the means come on top.
    :param weight: weight of the distillation, 0 or more.
    :param temperature: temperature of the distillation, above 0.
    :param seed: seed of what is drawn, 0 or more.
    """

    loss = partial(_on_rows, weight=weight, temperature=temperature)
    memory = ExemplarMemory(max_bytes, "herding", seed)
    return [
        ExemplarReplayPlugin(model, memory, share="union"),
        DistillationPlugin(model, loss, CurrentBatch("seen"), PreviousTeacher()),
        NearestMeanPlugin(model, memory),
    ]


@recipe(
    "tic-cumulative",
    family="MMRE",
    summary="old data take the place of new in every batch: all alike, equal or exponential shares",
    paper=["2310.16226"],
    training=[
        Published(
            source="the authors' code",
            benchmark="TiC-CLIP's streams, from scratch",
            optimizer="AdamW",
            lr=1e-3,
            weight_decay=0.2,
            betas=(0.9, 0.98),
            schedule="cosine",
            warmup=2000,
            iterations=4500,
            batch_size=4096,
            at=("tic-datacomp",),
            note="iterations and batch of the medium scale (large: 22,500 of 8,192; xlarge: 20,500 of 90,112); no "
            "warm-up from the second time step on",
        )
    ],
    adamw=AdamW(1e-5, "since the published rate is for a model from scratch: as whole towers are fine-tuned on MTIL"),
    picturebook=WHOLE_TOWERS,
)
def tic_cumulative(
    model: VLM,
    *,
    variant: Literal["all", "equal", "exponential"] = "all",
    max_bytes: Bytes = 1 << 30,
    folder: Workplace = "",
    augment: bool = True,
    seed: Seed = 0,
) -> Plugins:
    """TiC-CLIP's cumulative training from the last checkpoint (Garg et al., arXiv 2310.16226): old data take the place
    of new ones in every batch, so that a time step costs what it costs without.

    ``"all"`` draws from all data so far alike, so the share of old data grows with time; ``"equal"`` and
    ``"exponential"`` make half of every batch old, and share it evenly over the past steps, or with half the share for
    each step further back. Differs from the paper, where the two thin out what is *stored* likewise: here everything
    within the budget stays, and the shares are those of the draws.

    :param variant: shares of old data, ``"all"``, ``"equal"`` or ``"exponential"``.
    :param max_bytes: budget in bytes; the default holds what the paper's "all" holds, everything.
    :param folder: folder in which pictures are kept; empty for RAM.
    :param augment: whether old pictures go through the training transform, as new ones do.
    :param seed: seed of the draws, 0 or more.
    """
    mixture: Literal["uniform", "equal", "exponential"] = "uniform" if variant == "all" else variant
    share: float | Literal["proportional"] = "proportional" if variant == "all" else 0.5
    memory = ExemplarMemory(max_bytes, "reservoir", seed, folder=folder or None)
    return [ExemplarReplayPlugin(model, memory, mixture=mixture, share=share, augment=augment)]


def _on_rows(c: Comparison, *, weight: float, temperature: float) -> torch.Tensor:
    # A function of the module and not of the recipe, so that plugins can be copied and pickled.
    return weight * logit_distillation(c.logits(), c.teacher.logits, temperature, "rows")
