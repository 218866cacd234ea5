"""What torch has no public name for around ``fully_shard`` (FSDP2): the way back from it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

_OF_FSDP = "torch.distributed.fsdp"
_MARKS = ("_fsdp", "_is_fsdp", "__composable_api")
"""How attributes begin that FSDP leaves on modules: its state, and marks for torch's compiler."""


def can_shard() -> bool:
    """Whether this version of torch can shard modules, and add up their gradients where there is no mean (gloo)."""
    try:
        from torch.distributed.fsdp import FSDPModule, fully_shard
    except ImportError:
        return False
    return callable(fully_shard) and hasattr(FSDPModule, "set_force_sum_reduction_for_comms")


def wrap_in_shards(module: nn.Module, mesh: Any, whole: Collection[nn.Parameter]) -> None:
    """Have each process of a mesh keep a part of the rows of a module's parameters. They are whole on the mesh's device
    while the module runs forward or backward; their gradients are means over the processes.

    :param module: module that others call, none of whose parts is wrapped yet.
    :param mesh: processes that share the rows out, and their device, as a ``DeviceMesh``.
    :param whole: parameters of the module that stay as they are.
    """
    from torch.distributed.fsdp import fully_shard

    # Each has its own way through memory, the first one that is called as well: True, not None.
    wrapped: Any = fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=set(whole))
    wrapped.set_force_sum_reduction_for_comms(True)  # gloo knows no mean


def unwrap_shards(module: nn.Module) -> None:
    """Take from a module, and from all in it, what :func:`wrap_in_shards` has put there: the class, hooks and marks.
    Its parameters are not touched; nothing of them may be on its way.

    :param module: the module that was wrapped.
    """
    from torch.distributed._composable_state import _module_state_mapping
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            before: Any = next(kind for kind in type(part).__mro__ if not issubclass(kind, FSDPModule))
            part.__class__ = before
            _module_state_mapping.pop(part, None)
        found = vars(part)
        hooks = {name: of for name, of in found.items() if name.endswith(("_hooks", "_with_kwargs", "_always_called"))}
        gone = {key for of in hooks.values() for key, hook in of.items() if _is_of_fsdp(hook)}
        for of in hooks.values():
            for key in gone & of.keys():
                del of[key]
        for name in [name for name in found if name.startswith(_MARKS)]:
            delattr(part, name)


def _is_of_fsdp(hook: Any) -> bool:
    hook = getattr(hook, "hook", hook)  # torch puts hooks before loading into an object
    return str(getattr(hook, "__module__", "")).startswith(_OF_FSDP)


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of a sharded parameter, or of its gradient, that this process has: no copy.

    :param tensor: the parameter as it is registered, or its gradient.
    """
    with torch.no_grad():
        return tensor.to_local()  # type: ignore[attr-defined]


def in_parts_of(tensor: torch.Tensor) -> bool:
    """Whether a tensor is spread over processes.

    :param tensor: parameter of a model, or any other tensor.
    """
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
