"""The Fisher information of kept samples."""

from __future__ import annotations

import torch

from avalanche_vlm._ranks import alone
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.evaluation.probes.kept import KeptTask, precision_of
from avalanche_vlm.evaluation.probes.quiet import undisturbed
from avalanche_vlm.losses.fisher import FisherKind, Importance, fisher_losses, sketched_squares
from avalanche_vlm.models import VLM
from avalanche_vlm.training.protocol import Strategy


def fisher_of(
    strategy: Strategy,
    model: VLM,
    task: KeptTask,
    weights: dict[str, torch.Tensor],
    kind: FisherKind,
    draws: int,
    generator: torch.Generator,
) -> Importance:
    """The diagonal of the Fisher information on a task's samples at the present weights, estimated by
    :func:`~avalanche_vlm.losses.fisher.sketched_squares`.

    Pairs are classified among the distinct texts kept with them, pictures among the classes that compete in training:
    it is the importance that EWC would give the weights.

    :param strategy: strategy whose precision is taken.
    :param model: model that answers, in eval mode meanwhile.
    :param task: samples of the task.
    :param weights: parameters by name; whether they train makes no difference.
    :param kind: ``"true"``, labels drawn from the model; ``"empirical"``, those of the data; ``"predicted"``, the
        model's likeliest.
    :param draws: number of backward passes.
    :param generator: draws labels and signs, on the CPU.
    :return: the diagonal, with the names and shapes of the weights.
    """
    x, y, task_labels = task.batch(model, model.device)
    frozen = [p for p in weights.values() if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad(), alone(), undisturbed(model), model.competing.as_in_training(), precision_of(strategy):
            if isinstance(x, ImageText):
                distinct, y = torch.unique(x.tokens, dim=0, return_inverse=True)
                logits = model.similarity(model.encode_image(x.image), model.encode_text(distinct, padding=x.padding))
            else:
                logits = model(x, task_labels)
            losses = fisher_losses(logits, y, kind, generator)
            if not losses.requires_grad:
                return {name: torch.zeros_like(p) for name, p in weights.items()}
            return sketched_squares(losses, weights, draws, generator)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
