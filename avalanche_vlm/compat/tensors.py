"""What has no public name around torch's tensors and operators."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

OperatorMode = TorchDispatchMode
"""Base of modes that see every operator, forward and backward: torch documents it and builds its counters on it, but
keeps it in a module with an underscore."""


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written to in place: autograd's counter, which torch documents for its error messages."""
    return tensor._version


def backward_pass() -> int:
    """The number of the backward pass that is under way on this thread; each has its own, and -1 stands for none."""
    return torch._C._current_graph_task_id()


def add_each_(tensors: list[torch.Tensor], others: list[torch.Tensor], alpha: float) -> None:
    """Add ``alpha`` times another tensor to each tensor, in one call, and on CUDA in few kernels: what ``torch.optim``
    is made of, which torch documents under this name alone."""
    if tensors:
        torch._foreach_add_(tensors, others, alpha=alpha)


def differences_of_each(tensors: list[torch.Tensor], others: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each tensor less another one, as :func:`add_each_` adds them, in new tensors."""
    return list(torch._foreach_sub(tensors, others)) if tensors else []


def products_of_each(tensors: list[torch.Tensor], others: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each tensor times another one, number by number, as :func:`add_each_` adds them, in new tensors."""
    return list(torch._foreach_mul(tensors, others)) if tensors else []


def copy_each_(tensors: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    """Copy another tensor into each tensor, as :func:`add_each_` does it."""
    if tensors:
        torch._foreach_copy_(tensors, others)


def lerp_each_(tensors: list[torch.Tensor], others: list[torch.Tensor], weight: float) -> None:
    """Move each tensor this share of the way to another one, as :func:`add_each_` does it."""
    if tensors:
        torch._foreach_lerp_(tensors, others, weight)


def mul_each_(tensors: list[torch.Tensor], factor: float) -> None:
    """Multiply each tensor by a number, as :func:`add_each_` does it."""
    if tensors:
        torch._foreach_mul_(tensors, factor)


def largest_of_each(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The largest absolute value of each tensor, NaN where one is, in few kernels as :func:`add_each_` has them."""
    return list(torch._foreach_norm(tensors, float("inf"))) if tensors else []
