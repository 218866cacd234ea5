"""A few samples of a past task, and what the model makes of them now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.models.utils import avalanche_forward
from torch.utils.data import Subset
from typing_extensions import Self

from avalanche_vlm._ranks import alone
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.compat.strategies import criterion_of
from avalanche_vlm.evaluation.probes.quiet import undisturbed
from avalanche_vlm.models import VLM
from avalanche_vlm.training.protocol import Strategy


@dataclass(frozen=True)
class KeptTask:
    """Copies of samples, on the CPU; pictures in 8 bits.

    :param step: number of the experience that they come from, from 1 on.
    :param x: uint8 pictures ``[n, 3, H, W]``, or inputs of another shape as they are.
    :param tokens: tokens ``[n, L]`` of the texts of pairs; None for classes.
    :param y: class ids or identities of pairs ``[n]``.
    :param task_labels: task labels ``[n]``.
    """

    step: int
    x: torch.Tensor
    tokens: torch.Tensor | None
    y: torch.Tensor
    task_labels: torch.Tensor

    @classmethod
    def of(cls, strategy: Strategy, model: VLM, step: int, n: int, generator: torch.Generator) -> Self:
        """Random samples of the strategy's experience, under its evaluation transforms.

        :param strategy: strategy with an experience at hand.
        :param model: model whose transforms turn pictures into 8 bits.
        :param step: number of the experience, from 1 on.
        :param n: most samples to take.
        :param generator: draws the samples, on the CPU.
        """
        data = strategy.experience.dataset.eval()
        chosen = torch.randperm(len(data), generator=generator)[:n].tolist()
        with undisturbed(model):  # the transforms may draw
            x, y, *rest = next(iter(ordered_batches(Subset(data, chosen), len(chosen))))
        images, tokens = (x.image, x.tokens) if isinstance(x, ImageText) else (x, None)
        if images.ndim == 4:
            images = model.transforms.eval.to_uint8(images)
        task_labels = rest[-1] if rest else torch.zeros_like(y)
        return cls(step, images, tokens, y, task_labels)

    def batch(self, model: VLM, device: torch.device) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """``x, y, task_labels`` as the strategy's loader would give them.

        :param model: model whose transforms turn 8 bits into pictures.
        :param device: where the batch shall be.
        """
        x = self.x.to(device)
        if x.dtype == torch.uint8:
            x = model.transforms.eval.from_uint8(x)
        pairs = None if self.tokens is None else ImageText(x, self.tokens).to(device)
        return x if pairs is None else pairs, self.y.to(device), self.task_labels.to(device)


def as_tensors(tasks: Iterable[KeptTask]) -> dict[str, torch.Tensor]:
    """Kept samples as tensors by step and column, for a state.

    :param tasks: samples of tasks, each with its own step.
    """
    found: dict[str, torch.Tensor] = {}
    for task in tasks:
        columns = {"x": task.x, "tokens": task.tokens, "y": task.y, "task_labels": task.task_labels}
        found |= {f"{task.step}/{name}": column for name, column in columns.items() if column is not None}
    return found


def from_tensors(tensors: Mapping[str, torch.Tensor]) -> list[KeptTask]:
    """The tasks that :func:`as_tensors` was given.

    :param tensors: tensors by step and column.
    """
    steps = dict.fromkeys(int(key.partition("/")[0]) for key in tensors)
    return [
        KeptTask(
            step,
            tensors[f"{step}/x"],
            tensors.get(f"{step}/tokens"),
            tensors[f"{step}/y"],
            tensors[f"{step}/task_labels"],
        )
        for step in steps
    ]


def loss_gradients(
    strategy: Strategy, model: VLM, task: KeptTask, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor | None]:
    """Gradient of the strategy's criterion on a task's samples as the model answers them now; no ``.grad`` is touched.

    It stands for a step of training on them, so the classes compete that would in training.

    :param strategy: strategy whose criterion and precision are taken.
    :param model: model that answers, in eval mode meanwhile.
    :param task: samples to answer.
    :param weights: parameters by name; None comes back for one that the answers do not depend on.
    """
    x, y, task_labels = task.batch(model, model.device)
    with torch.enable_grad(), alone(), undisturbed(model), model.competing.as_in_training(), precision_of(strategy):
        loss = criterion_of(strategy)(avalanche_forward(model, x, task_labels), y)
        if not loss.requires_grad:
            return dict.fromkeys(weights)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return dict(zip(weights, found, strict=True))


def precision_of(strategy: Strategy) -> AbstractContextManager[Any]:
    """The strategy's autocast, if it has one.

    :param strategy: any of Avalanche's, or one of ours.
    """
    return strategy.autocast() if hasattr(strategy, "autocast") else nullcontext()
