"""Whether weights have changed since one last looked, without looking at them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from avalanche_vlm.compat import version_of


class _OptimizerSteps:
    """Counts the steps of all optimizers of this process."""

    taken = 0

    @classmethod
    def count(cls, *_: Any) -> None:
        cls.taken += 1


register_optimizer_step_post_hook(_OptimizerSteps.count)


def optimizer_steps() -> int:
    """Steps that any optimizer of this process has taken: fused ones raise no tensor's version counter."""
    return _OptimizerSteps.taken


def tensor_versions(tensors: Iterable[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """Where each tensor lies, and the version counter that torch raises on in-place operations.

    What torch does not see is a write through ``tensor.data``, and steps of fused optimizers:
    :func:`optimizer_steps` tells of those.

    >>> weight = torch.zeros(2)
    >>> before = tensor_versions([weight])
    >>> _ = weight.add_(1)
    >>> tensor_versions([weight]) == before
    False
    """
    return tuple((tensor.data_ptr(), version_of(tensor)) for tensor in tensors)
