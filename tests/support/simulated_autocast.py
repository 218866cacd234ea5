"""Autocast by CUDA's list of operators, which is longer than the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from simulated_tensor import NAME, there
from torch.utils._pytree import tree_leaves, tree_map

LOWER = {
    *("_convolution", "conv1d", "conv2d", "conv3d", "conv_tbc", "convolution", "prelu", "linear", "einsum", "matmul"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "addmm", "addmv", "addr", "mm", "mv", "addbmm"),
    *("baddbmm", "bmm", "chain_matmul", "linalg_multi_dot", "linalg_vecdot", "scaled_dot_product_attention"),
}
"""Operators that run in the lower precision; those below in the widest of what they are given, all others of the list
in float32."""
WIDEST = {"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot"}
WIDEST |= {"scatter_add"}
SUMS = {"prod", "softmax", "log_softmax", "cumprod", "cumsum", "sum", "linalg_vector_norm", "linalg_matrix_norm"}
"""Operators whose result is float32 unless another type is asked for."""
_kept: list[torch.library.Library] = []


def register() -> None:
    """Give every operator that autocast knows on CUDA its rule on the device."""
    key = "AutocastPrivateUse1"
    others, rules = torch.library.Library("_", "IMPL", key), torch.library.Library("aten", "IMPL", key)
    others.fallback(torch.library.fallthrough_kernel)
    for full in torch._C._dispatch_get_all_op_names():
        if full.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(full, "AutocastCUDA"):
            name, _, overload = full.removeprefix("aten::").partition(".")
            operator = getattr(getattr(torch.ops.aten, name), overload or "default")
            rules.impl(full.removeprefix("aten::"), _rule(operator, name))
    _kept.extend((others, rules))


def _rule(operator: Any, name: str) -> Callable[..., Any]:
    without = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    arguments = [argument.name for argument in operator._schema.arguments]

    def casts(x: Any) -> bool:
        return there(x) and x.is_floating_point() and x.dtype != torch.float64

    def dtype_of(args: Any, kwargs: Any) -> torch.dtype:
        if name in LOWER:
            return torch.get_autocast_dtype(NAME)
        if name in WIDEST and not any(x.dtype == torch.float32 for x in tree_leaves((args, kwargs)) if casts(x)):
            return torch.get_autocast_dtype(NAME)
        return torch.float32

    def rule(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(without):
            if name == "binary_cross_entropy":
                raise RuntimeError(
                    "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast"
                )
            if name in SUMS and "dtype" in arguments:
                asked = dict(zip(arguments, args, strict=False)) | kwargs
                if casts(args[0]) and args[0].dtype != torch.float32 and asked.get("dtype") is None:
                    args, kwargs = args[: arguments.index("dtype")], {**kwargs, "dtype": torch.float32}
                return operator(*args, **kwargs)
            dtype = dtype_of(args, kwargs)
            args, kwargs = tree_map(lambda x: x.to(dtype) if casts(x) else x, (args, kwargs))
            return operator(*args, **kwargs)

    return rule
