"""Regularization by subspaces: updates keep out of what features, or weights, use most."""

from __future__ import annotations

from functools import partial

import torch

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.lora import ATTENTION_PATTERN
from avalanche_vlm.training.plugins import (
    DistillationPlugin,
    MergedLowRankPlugin,
    NullSpaceProjectionPlugin,
)
from avalanche_vlm.training.recipes.comparisons import distilled_and_aligned
from avalanche_vlm.training.recipes.declaration import Plugins, Published, Tuned, Unpublished
from avalanche_vlm.training.recipes.facts import LIKE_FINE_TUNING, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import (
    TOWERS,
    Count,
    NonNegative,
    PartialShare,
    Positive,
    Seed,
    Share,
    SomeShare,
    Towers,
    Width,
)
from avalanche_vlm.training.recipes.registry import recipe
from avalanche_vlm.training.reference import ReferenceSet
from avalanche_vlm.training.teachers import InitialTeacher


@recipe(
    "gnsp",
    family="CREG",
    summary="updates in the null space of what layers read before; distillation and alignment on reference pairs",
    image_tower="transformer",
    paper=["2507.19839"],
    training=[
        Unpublished(
            "the optimizer's settings are not known to us; what is published of losses and projection are the defaults"
        )
    ],
    adamw=LIKE_FINE_TUNING,
    picturebook=WHOLE_TOWERS,
)
def gnsp(
    model: VLM,
    *,
    reference: ReferencePairs,
    batch_size: Count = 64,
    weight: NonNegative = 1.0,
    alignment: NonNegative = 0.75,
    temperature: Positive = 2.0,
    label_smoothing: PartialShare = 0.2,
    tail_energy: Share = 0.15,
    seed: Seed = 0,
) -> Plugins:
    """GNSP: updates of the image tower's MLPs in the null space of what they read in past tasks, with distillation from
    the initial model and alignment on reference pairs (Peng et al., arXiv 2507.19839).

    ``weight * KD + alignment * soft_alignment`` on a batch of reference pairs and its own captions: KD adds rows and
    columns, the alignment adds its two directions, with a label smoothing of its own: 0.2, which the authors' code
    gives the task loss as well. The task loss is the strategy's, and so is its smoothing. Weights, temperature,
    smoothing and tail energy are the authors' code on MTIL.

    The first task trains both towers, the others nothing but the projected layers, which are the image tower's MLPs: a
    model whose image tower is frozen is refused. Differs from the code: it draws 1000 other reference pairs for every
    task, and a caption that is twice in a batch is two columns there and one here.
    :class:`~avalanche_vlm.training.plugins.NullSpaceProjectionPlugin` says where the projection differs.

    :param reference: pairs to distil on and to align; the published number is 1000.
    :param batch_size: reference pairs per iteration.
    :param weight: weight of the distillation, 0 or more.
    :param alignment: weight of the two-way cross-entropy, equal captions matching each other.
    :param temperature: temperature of the distillation, above 0.
    :param label_smoothing: label smoothing of the alignment, at least 0 and below 1.
    :param tail_energy: share of the inputs' energy that updates may touch, from 0 to 1.
    :param seed: seed of the reference batches, 0 or more.
    """

    loss = partial(
        distilled_and_aligned,
        weight=weight,
        temperature=temperature,
        alignment=alignment,
        label_smoothing=label_smoothing,
    )
    pairs = ReferenceSet(model, reference, batch_size, seed=seed)
    return [
        DistillationPlugin(model, loss, pairs, InitialTeacher()),
        # Last, so that it sees the optimizer's whole step.
        NullSpaceProjectionPlugin(model, tail_energy=tail_energy, freeze_rest=True, dtype=torch.float64),
    ]


@recipe(
    "nusa",
    family="CREG",
    summary="changes along the singular directions that weights use least",
    image_tower="transformer",
    paper=["2510.21175"],
    training=[
        Published(
            source="the authors' code, as others report it, for it was not available to us",
            benchmark="MTIL",
            optimizer="AdamW",
            lr=3e-4,
            weight_decay=1e-2,
            warmup=50,
            label_smoothing=0.2,
            iterations=1000,
            batch_size=16,
        )
    ],
    picturebook=Tuned(
        lr=2e-2,
        how="Of 5e-3, 1e-2, 2e-2 and 4e-2: 71.9, 74.5, 76.5 and 77.1 (256 pictures per task); at 4e-2 earlier tasks "
        "lose 9 points, at 2e-2 4.",
    ),
)
def nusa(
    model: VLM,
    *,
    rank: Width = 128,
    tail_energy: SomeShare = 0.05,
    alpha: Positive = 2.0,
    dropout: PartialShare = 0.25,
    towers: Towers = "both",
) -> Plugins:
    """NuSA-CL: every task changes the weights only in the singular directions that they use least, and the change is
    merged at its end (Jo and Kim, arXiv 2510.21175).

    ``dW = alpha / sqrt(r) U_n M V_n^T`` on q, k, v and the output of attention in every block of both towers; the r
    directions ``U_n`` and ``V_n`` are taken anew from the merged weights as a task starts, and ``M`` starts from zero.
    Nothing is stored. A layer whose smallest direction holds more than ``tail_energy`` has no null directions and is
    left out. The published 1.5 million parameters on ViT-B/16 are 96 matrices M of 128 x 128, four in each of the 24
    blocks of both towers. Scale, rank, energy and dropout are those of the authors' code (ZoYujin/NuSA-CL).

    Differs from the authors' code: q, k and v are three weights, as they are in the forward pass, where open_clip
    stores them as one. The code does not say to us where its dropout sits: here it is on the inputs of the change, as
    in LoRA.

    :param rank: directions per weight at most.
    :param tail_energy: share of a weight's squared singular values that these directions may hold.
    :param alpha: scale of the change times the square root of the layer's number of directions, above 0.
    :param dropout: share of the inputs of the change that are zero in a training step, at least 0 and below 1.
    :param towers: the towers that change; one that is frozen in the model stays as it is.
    """
    tail = MergedLowRankPlugin(
        model,
        towers=TOWERS[towers],
        rank=rank,
        alpha=alpha,
        pattern=ATTENTION_PATTERN,
        init="tail",
        tail_energy=tail_energy,
        dropout=dropout,
    )
    return [tail]
