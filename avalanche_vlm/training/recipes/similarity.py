"""Cross-modal regularization (CREG) by the distillation of similarity matrices."""

from __future__ import annotations

import torch

from avalanche_vlm.losses.similarity import two_way
from avalanche_vlm.losses.topology import FeatureQueue, momentum_contrast, topology_preservation
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.models import VLM
from avalanche_vlm.training.plugins import Comparison, DistillationPlugin
from avalanche_vlm.training.recipes.registry import Plugins, recipe
from avalanche_vlm.training.reference import CurrentBatch
from avalanche_vlm.training.teachers import MomentumTeacher, PreviousTeacher


@recipe("mod-x", family="CREG")
def mod_x(model: VLM, *, weight: float = 20.0, temperature: float = 1.0) -> Plugins:
    """Mod-X: the similarities of the batch, off the diagonal above all, stay as the previous model had them, where that
    model is right (Ni et al., arXiv 2305.07437, section 3.3).

    ``weight * sum over rows KL(old || new)``, the mean of images to texts and texts to images, on plain cosines: that
    is the authors' code, with 20 at batches of 70. On class-labelled streams the texts are the prompts of the classes
    in the batch, each once. Differs from the paper, whose old model is none in the first task: here it is the
    pretrained one.

    :param weight: of the sum over rows.
    :param temperature: divides the cosines.
    """

    def loss(c: Comparison) -> torch.Tensor:
        mean = two_way(c.student.cosines, c.teacher.cosines, temperature=temperature, rows="mod-x", right=c.matches)
        return weight * len(c.student.images) * mean

    return [DistillationPlugin(model, loss, CurrentBatch("batch"), PreviousTeacher())]


@recipe("dkr", family="CREG")
def dkr(model: VLM, *, weight: float = 1.0) -> Plugins:
    """DKR: the previous model's similarities, rectified: its own where it is right, the current model's where only that
    one is, the truth where neither is (Cui et al., "Continual Vision-Language Retrieval via Dynamic Knowledge
    Rectification", AAAI 2024).

    Rows and columns are judged apart and their mean is taken. The authors' code is not public; the scale of the
    similarities is the model's own, which the paper leaves open. In the first task the previous model is the pretrained
    one.

    :param weight: of the distillation; the paper's lambda.
    """

    def loss(c: Comparison) -> torch.Tensor:
        return weight * two_way(c.student.logits, c.teacher.logits, rows="dkr", right=c.matches)

    return [DistillationPlugin(model, loss, CurrentBatch("batch"), PreviousTeacher())]


@recipe("ctp", family="CREG")
def ctp(
    model: VLM,
    *,
    topology: float = 1.0,
    contrast: float = 1.0,
    temperature: float = 0.07,
    queue: int = 1024,
    decay: float = 0.9,
    first_decay: float = 0.995,
) -> Plugins:
    """CTP: topology preservation against the previous model, and contrast against a momentum model between the student
    and the previous one (Zhu et al., arXiv 2308.07146, eq. 3-9; settings of the authors' code).

    The topology counts from the second task on, the momentum contrast from the first. The momentum model starts afresh
    with every task, its queue goes on. Differs from the authors' code: the queue holds only what was pushed, where
    theirs starts with random vectors; equal captions (equal classes) are positives of each other; the parts on masked
    language modelling are left out, for which CLIP has no head. The task loss is the strategy's own.

    :param topology: weight of the topology preservation.
    :param contrast: weight of the momentum contrast.
    :param temperature: of both.
    :param queue: pairs of momentum features that are kept.
    :param decay: of the compatible momentum, from the second task on.
    :param first_decay: of the moving average in the first task.
    """
    loss = _CTP(topology, contrast, temperature, queue)
    return [
        DistillationPlugin(model, loss, CurrentBatch("batch"), [PreviousTeacher(), MomentumTeacher(decay, first_decay)])
    ]


class _CTP:
    """CTP's two losses and its queue of momentum features ``[2 D]``, image beside text."""

    def __init__(self, topology: float, contrast: float, temperature: float, size: int) -> None:
        self.topology, self.contrast, self.temperature, self.size = topology, contrast, temperature, size
        self.queue: FeatureQueue | None = None

    def __call__(self, c: Comparison) -> torch.Tensor:
        student, (previous, momentum) = c.student, c.teachers
        images, texts = momentum.images, momentum.paired_texts
        if self.queue is None:
            self.queue = FeatureQueue(self.size, 2 * images.shape[1], images.device)
        features, ids = self.queue.entries()
        old_images, old_texts = features.chunk(2, dim=1)
        loss = self.contrast * momentum_contrast(
            student.images, student.paired_texts, images, texts, old_images, old_texts, self.temperature, c.y, ids
        )
        self.queue.push(torch.cat([images, texts], dim=1), c.y)
        if c.past:
            before = previous.images, previous.paired_texts
            loss = loss + self.topology * topology_preservation(
                student.images, student.paired_texts, *before, self.temperature
            )
        return loss

    def stored(self) -> StoredBytes:
        return StoredBytes(ram=0 if self.queue is None else self.queue.nbytes)
