"""Replay of pairs that a generator draws."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

from pydantic import Field

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.memory.generators import Generator
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import ConsolidatedDistillationPlugin
from avalanche_vlm.training.recipes.comparisons import distilled_and_aligned
from avalanche_vlm.training.recipes.declaration import Plugins
from avalanche_vlm.training.recipes.facts import FINE_TUNING, WHOLE_TOWERS
from avalanche_vlm.training.recipes.ranges import NonNegative, PartialShare, Positive, Seed
from avalanche_vlm.training.recipes.registry import recipe
from avalanche_vlm.training.reference import SyntheticPairs
from avalanche_vlm.training.teachers import PreviousTeacher


@recipe(
    "gift",
    family="MMRE",
    summary="generated pairs: distillation, alignment, adaptive weight consolidation",
    paper=["2503.04229"],
    training=[replace(FINE_TUNING, source="the authors' code, configs/mtil_order_I.json and src/args.py")],
    picturebook=WHOLE_TOWERS,
)
def gift(
    model: VLM,
    *,
    generator: Generator,
    reference: ReferencePairs | None = None,
    n: Annotated[int, Field(ge=2, le=1_000_000)] = 1000,
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 64,
    weight: NonNegative = 1.0,
    alignment: NonNegative = 0.25,
    consolidation: NonNegative = 1.0,
    temperature: Positive = 2.0,
    label_smoothing: PartialShare = 0.2,
    seed: Seed = 0,
) -> Plugins:
    """GIFT: generated pairs in place of kept ones, distillation from the previous model on them, alignment, and
    adaptive weight consolidation (Wu et al., arXiv 2503.04229, sections 4 to 6).

    Defaults are the authors' code on MTIL; :class:`~avalanche_vlm.training.reference.SyntheticPairs` and
    :class:`~avalanche_vlm.training.plugins.ConsolidatedDistillationPlugin` say where they differ from it. The base
    prompts, ImageNet's class names there, are the reference set's captions here: its images are not used.

    :param generator: what draws pictures of prompts.
    :param reference: pairs whose captions are the base prompts; without, the first task has none.
    :param n: pairs generated per task.
    :param batch_size: generated pairs per iteration, besides the new samples.
    :param weight: weight of the distillation, rows and columns added.
    :param alignment: weight of the two-way cross-entropy on them, equal prompts matching each other.
    :param consolidation: weight of the penalty on weights, 0 or more.
    :param temperature: temperature of the distillation, above 0.
    :param label_smoothing: label smoothing of the alignment, at least 0 and below 1.
    :param seed: seed of the pairs and their batches, 0 or more.
    """

    loss = partial(
        distilled_and_aligned,
        weight=weight,
        temperature=temperature,
        alignment=alignment,
        label_smoothing=label_smoothing,
        column_per_pair=True,  # a prompt counts as often as it was drawn
    )
    prompts = () if reference is None else reference.captions
    pairs = SyntheticPairs(model, generator, prompts, n, batch_size, seed)
    return [ConsolidatedDistillationPlugin(model, loss, pairs, PreviousTeacher(), consolidation)]
