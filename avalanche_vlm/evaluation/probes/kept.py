"""A few samples of a past task, and what the model makes of them now."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from avalanche.models.utils import avalanche_forward
from torch.utils.data import DataLoader, Subset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.evaluation.probes.quiet import undisturbed
from avalanche_vlm.memory.accounting import tensor_bytes
from avalanche_vlm.models import VLM


@dataclass(frozen=True)
class KeptTask:
    """Copies of samples, on the CPU; pictures in 8 bits.

    :param step: of the experience that they come from, from 1 on.
    :param x: uint8 pictures ``[n, 3, H, W]``, or inputs of another shape as they are.
    :param tokens: ``[n, L]`` of pairs; None for classes.
    :param y: ``[n]``.
    :param task_labels: ``[n]``.
    """

    step: int
    x: torch.Tensor
    tokens: torch.Tensor | None
    y: torch.Tensor
    task_labels: torch.Tensor

    @classmethod
    def of(cls, strategy: Any, model: VLM, step: int, n: int, generator: torch.Generator) -> Self:
        """Random samples of the strategy's experience, under its evaluation transforms."""
        data = strategy.experience.dataset.eval()
        chosen = torch.randperm(len(data), generator=generator)[:n].tolist()
        with undisturbed(model):  # a loader draws a number
            x, y, *rest = next(iter(DataLoader(Subset(data, chosen), len(chosen))))
        images, tokens = (x.image, x.tokens) if isinstance(x, ImageText) else (x, None)
        if images.ndim == 4:
            images = model.transforms.eval.to_uint8(images)
        task_labels = rest[-1] if rest else torch.zeros_like(y)
        return cls(step, images, tokens, y, task_labels)

    def batch(self, model: VLM, device: torch.device) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """``x, y, task_labels`` as the strategy's loader would give them."""
        x = self.x.to(device)
        if x.dtype == torch.uint8:
            x = model.transforms.eval.from_uint8(x)
        if self.tokens is not None:
            x = ImageText(x, self.tokens.to(device))
        return x, self.y.to(device), self.task_labels.to(device)

    @property
    def nbytes(self) -> int:
        tensors = (self.x, self.tokens, self.y, self.task_labels)
        return tensor_bytes(tensor for tensor in tensors if tensor is not None)


def loss_gradients(
    strategy: Any, model: VLM, task: KeptTask, weights: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor | None]:
    """Gradient of the strategy's criterion on a task's samples as the model answers them now; no ``.grad`` is touched.

    :param weights: by name; None comes back for one that the answers do not depend on.
    """
    x, y, task_labels = task.batch(model, model.device)
    with torch.enable_grad(), undisturbed(model), precision_of(strategy):
        loss = strategy._criterion(avalanche_forward(model, x, task_labels), y)
        if not loss.requires_grad:
            return dict.fromkeys(weights)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return dict(zip(weights, found, strict=True))


def precision_of(strategy: Any) -> AbstractContextManager:
    """The strategy's autocast, if it has one."""
    return strategy.autocast() if hasattr(strategy, "autocast") else nullcontext()
