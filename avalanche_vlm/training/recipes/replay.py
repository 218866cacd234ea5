"""Multi-modal replay (MMRE): explicit and implicit."""

from __future__ import annotations

import torch

from avalanche_vlm.benchmarks.scenario import ReferencePairs
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.alignment import soft_alignment
from avalanche_vlm.losses.distillation import logit_distillation
from avalanche_vlm.memory import ExemplarMemory
from avalanche_vlm.memory.generators import Generator
from avalanche_vlm.memory.latents import LatentMemory
from avalanche_vlm.memory.statistics import FeatureMemory
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import (
    Comparison,
    ConsolidatedDistillationPlugin,
    DistillationPlugin,
    ExemplarReplayPlugin,
    FeatureReplayPlugin,
    LatentReplayPlugin,
    NearestMeanPlugin,
    ReferenceReplayPlugin,
    TextReplayPlugin,
)
from avalanche_vlm.training.recipes.registry import Plugins, recipe
from avalanche_vlm.training.reference import CurrentBatch, SyntheticPairs
from avalanche_vlm.training.teachers import PreviousTeacher


@recipe("replay", family="MMRE")
def replay(
    model: VLM,
    *,
    reference: ReferencePairs | None = None,
    max_bytes: int = 1 << 20,
    policy: str = "class-balanced",
    batch_size: int = 64,
    mixture: str = "uniform",
    codec: str = "uint8",
    quality: int = 90,
    folder: str = "",
    pretraining: int = 0,
    seed: int = 0,
) -> Plugins:
    """Experience replay of exemplars that are copied out of the stream (iCaRL's memory, arXiv 1611.07725, with the
    plain task loss on them). With ``pretraining`` pairs beside them the batches are those of FoMo-in-Flux (arXiv
    2408.14471), of equal thirds when all three batch sizes agree.

    :param reference: pairs that stand for the pretraining data; needed with ``pretraining`` only.
    :param max_bytes: budget of the whole memory.
    :param policy: ``"class-balanced"``, ``"reservoir"``, ``"herding"`` or ``"hardest"``.
    :param batch_size: replayed samples per iteration.
    :param mixture: ``"uniform"``, ``"equal"``, ``"exponential"`` or ``"single"`` over past experiences.
    :param codec: pictures as ``"uint8"``, ``"png"`` or ``"jpeg"``.
    :param quality: of JPEG, 1 to 100.
    :param folder: keep the pictures there; empty for RAM.
    :param pretraining: reference pairs per iteration.
    :param seed: of the choice.
    """
    memory = ExemplarMemory(max_bytes, policy, seed, codec=codec, quality=quality, folder=folder or None)
    plugins: Plugins = [ExemplarReplayPlugin(model, memory, batch_size, mixture)]
    if pretraining:
        if reference is None:
            raise InputError("replay with pretraining pairs needs reference=ReferencePairs(...)")
        plugins.append(ReferenceReplayPlugin(model, reference, pretraining, seed))
    return plugins


@recipe("icarl", family="MMRE", kinds=("classes",))
def icarl(
    model: VLM,
    *,
    max_bytes: int = 1 << 20,
    batch_size: int = 64,
    weight: float = 1.0,
    temperature: float = 2.0,
    seed: int = 0,
) -> Plugins:
    """iCaRL on a VLM's features (Rebuffi et al., arXiv 1611.07725): herded exemplars in equal quotas over the classes
    seen, distillation of the old classes from the previous model, prediction by the nearest mean of exemplars.

    Differs from the paper: the network is a CLIP with its prompts as the head, so the task loss is cross-entropy over
    the label space and not one sigmoid per class; distillation has the temperature of LwF; the budget is in bytes (K
    samples are K times the bytes of one); a sample whose zero-shot answer is a class without exemplars keeps that
    answer. Class-labelled streams only.

    :param max_bytes: budget of the exemplars; the means come on top.
    :param batch_size: replayed samples per iteration.
    :param weight: of the distillation.
    :param temperature: of the distillation.
    :param seed: of the draws.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * logit_distillation(c.logits(), c.teacher.logits, temperature, "rows")

    memory = ExemplarMemory(max_bytes, "herding", seed)
    return [
        ExemplarReplayPlugin(model, memory, batch_size),
        DistillationPlugin(model, loss, CurrentBatch("seen"), PreviousTeacher()),
        NearestMeanPlugin(model, memory),
    ]


@recipe("tic-cumulative", family="MMRE")
def tic_cumulative(
    model: VLM, *, variant: str = "all", max_bytes: int = 1 << 30, folder: str = "", seed: int = 0
) -> Plugins:
    """TiC-CLIP's cumulative training from the last checkpoint (Garg et al., arXiv 2310.16226): old data take the place
    of new ones in every batch, so that a time step costs what it costs without.

    ``"all"`` draws from all data so far alike, so the share of old data grows with time; ``"equal"`` and
    ``"exponential"`` make half of every batch old, and share it evenly over the past steps, or with half the share for
    each step further back. Differs from the paper, where the two thin out what is *stored* likewise: here everything
    within the budget stays, and the shares are those of the draws.

    :param variant: as above.
    :param max_bytes: budget; the default holds what the paper's "all" holds, everything.
    :param folder: keep the pictures there; empty for RAM.
    :param seed: of the draws.
    """
    variants = {"all": ("uniform", "proportional"), "equal": ("equal", 0.5), "exponential": ("exponential", 0.5)}
    if variant not in variants:
        raise InputError(f"tic-cumulative comes as {', '.join(variants)}, not {variant!r}")
    mixture, share = variants[variant]
    memory = ExemplarMemory(max_bytes, "reservoir", seed, folder=folder or None)
    return [ExemplarReplayPlugin(model, memory, mixture=mixture, share=share)]


@recipe("text-replay", family="MMRE")
def text_replay(
    model: VLM, *, max_bytes: int = 1 << 18, batch_size: int = 64, weight: float = 1.0, seed: int = 0
) -> Plugins:
    """Captions (for classes, prompts) without images: their features stay where they were. Holds the text tower alone.

    Our composition; the survey lists texts among explicit memories.

    :param max_bytes: budget of the memory.
    :param batch_size: texts per iteration.
    :param weight: of one minus the cosine.
    :param seed: of the choice.
    """
    return [TextReplayPlugin(model, LatentMemory(max_bytes, "fp16", seed), batch_size=batch_size, weight=weight)]


@recipe("latent-replay", family="MMRE")
def latent_replay(
    model: VLM,
    *,
    max_bytes: int = 1 << 20,
    precision: str = "int8",
    layer: str = "",
    batch_size: int = 64,
    seed: int = 0,
) -> Plugins:
    """Latent replay (Pellegrini et al., arXiv 1912.01100): the image tower is frozen below a cut, activations at the
    cut are stored in its place of the pictures, and the tower is trained above it.

    Differs from the paper: the lower part does not train at all (there, slowly), so stored activations never age.

    :param max_bytes: budget of the memory.
    :param precision: ``"fp16"`` or ``"int8"``.
    :param layer: the cut is before this submodule of the image tower; empty for the middle block.
    :param batch_size: replayed samples per iteration.
    :param seed: of the choice.
    """
    memory = LatentMemory(max_bytes, precision, seed)
    return [LatentReplayPlugin(model, memory, layer=layer or None, batch_size=batch_size)]


@recipe("prototype-replay", family="MMRE")
def prototype_replay(
    model: VLM,
    *,
    kind: str = "full",
    max_bytes: int = 1 << 20,
    shrinkage: float = 0.1,
    components: int = 4,
    bottleneck: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Plugins:
    """Pseudo-features of old classes, drawn from statistics, train one adapter on frozen towers (RAPF's replay, arXiv
    2407.14143, without its margins and fusion).

    :param kind: ``"prototype"``, ``"diagonal"``, ``"full"``, ``"gmm"`` or ``"kmeans"``.
    :param max_bytes: budget of the statistics; over it they become coarser.
    :param shrinkage: of full covariances, in [0, 1].
    :param components: of ``"gmm"`` and ``"kmeans"``.
    :param bottleneck: inner width of the adapter; None for a linear one.
    :param batch_size: pseudo-features per iteration.
    :param seed: of fits and draws.
    """
    memory = FeatureMemory(kind, shrinkage=shrinkage, components=components, max_bytes=max_bytes, seed=seed)
    return [FeatureReplayPlugin(model, memory, bottleneck=bottleneck, batch_size=batch_size)]


@recipe("gift", family="MMRE")
def gift(
    model: VLM,
    *,
    generator: Generator,
    reference: ReferencePairs | None = None,
    n: int = 1000,
    batch_size: int = 64,
    weight: float = 1.0,
    alignment: float = 0.25,
    consolidation: float = 1.0,
    temperature: float = 2.0,
    label_smoothing: float = 0.2,
    seed: int = 0,
) -> Plugins:
    """GIFT: generated pairs in place of kept ones, distillation from the previous model on them, alignment, and
    adaptive weight consolidation (Wu et al., arXiv 2503.04229, sections 4 to 6).

    Defaults are the authors' code on MTIL; :class:`~avalanche_vlm.training.reference.SyntheticPairs` and
    :class:`~avalanche_vlm.training.plugins.ConsolidatedDistillationPlugin` say where they differ from it. The base
    prompts, ImageNet's class names there, are the reference set's captions here: its images are not used.

    :param generator: draws pictures of prompts.
    :param reference: its captions are the base prompts; without, the first task has none.
    :param n: pairs generated per task.
    :param batch_size: of them per iteration.
    :param weight: of the distillation, rows and columns added.
    :param alignment: weight of the two-way cross-entropy on them, equal prompts matching each other.
    :param consolidation: weight of the penalty.
    :param temperature: of the distillation, positive.
    :param label_smoothing: of the alignment, in [0, 1).
    :param seed: of the pairs and their batches.
    """
    if temperature <= 0:
        raise InputError(f"the temperature of the distillation is positive, not {temperature}")

    def loss(c: Comparison) -> torch.Tensor:
        # A column for every pair: a prompt counts as often as it was drawn.
        student, teacher, matches = (x[:, c.text_of_image] for x in (c.logits(), c.teacher.logits, c.matches))
        distilled = logit_distillation(student, teacher, temperature)
        return weight * distilled + alignment * soft_alignment(student, matches, label_smoothing)

    prompts = () if reference is None else reference.captions
    pairs = SyntheticPairs(model, generator, prompts, n, batch_size, seed)
    return [ConsolidatedDistillationPlugin(model, loss, pairs, PreviousTeacher(), consolidation)]
