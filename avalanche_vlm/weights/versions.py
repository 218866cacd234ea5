"""Whether weights have changed since one last looked, without looking at them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd.graph import increment_version
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from avalanche_vlm.compat.tensors import version_of


def _raise_counters(optimizer: Optimizer, *_: Any) -> None:
    """Count a step where torch does not: fused kernels write past its counters, whether its own or another package's.
    Counted here, in one place, a step is seen wherever a counter is asked, and by autograd itself. Twice counted is no
    harm."""
    increment_version([p for group in optimizer.param_groups for p in group["params"] if p.grad is not None])


register_optimizer_step_post_hook(_raise_counters)


def tensor_versions(tensors: Iterable[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """Where each tensor lies, and the version counter that torch raises on in-place operations.

    Steps of optimizers are seen, those of fused ones too: torch raises no counter there, so this module does, after
    every step of every :class:`torch.optim.Optimizer` of the process, for what had a gradient. What nobody sees is a
    write through ``tensor.data``.

    >>> weight = torch.zeros(2)
    >>> before = tensor_versions([weight])
    >>> _ = weight.add_(1)
    >>> tensor_versions([weight]) == before
    False
    """
    return tuple((tensor.data_ptr(), version_of(tensor)) for tensor in tensors)
