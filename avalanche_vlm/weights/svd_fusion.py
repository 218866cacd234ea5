"""Fusion of single matrices: RAPF's linear adapters."""

from __future__ import annotations

import torch


@torch.no_grad()
def svd_fusion(old: torch.Tensor, new: torch.Tensor, bias: float = 0.6) -> torch.Tensor:
    """Merge the adapters of before and after a task, in the basis of the old one's left singular vectors (RAPF, Huang
    et al., arXiv 2407.14143; what is computed follows the authors' code).

    With ``old = U S V^T``, both matrices are written in the basis U of the adapter's outputs, and their difference is
    taken element by element. Elements that changed most are new knowledge and are taken over; the rest is shared
    knowledge, of which a part of the old value stays::

        D = U^T (new - old)
        M = min(|D| / max |D| + bias, 1)
        fused = U (U^T old + M * D)

    Neither singular values nor right singular vectors are used, and the sign of a singular vector does not matter.
    Where singular values are equal the basis is not unique and neither is the result: the first adapter, an identity,
    is such a case.

    :param old: ``[D, D]``, the *whole* map: of a residual adapter ``x + W x``, identity plus W.
    :param new: the map after the task, of the same shape.
    :param bias: the least share of the new value, in [0, 1]; 1 gives ``new``. Published: 0.6 on CIFAR-100, 0.7 on
        ImageNet-R.
    :return: the fused matrix.
    :raises ValueError: if they are not two square matrices of one size, or the bias is out of its range.

    >>> old, new = torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([3.0, 1.5]))
    >>> svd_fusion(old, new, bias=0.25)
    tensor([[3.0000, 0.0000],
            [0.0000, 1.3750]])
    """
    if old.ndim != 2 or old.shape[0] != old.shape[1] or old.shape != new.shape:
        raise ValueError(f"fusion takes two square matrices of one size, got {list(old.shape)} and {list(new.shape)}")
    if not 0 <= bias <= 1:
        raise ValueError(f"the bias of the fusion's mask lies in [0, 1], not {bias}")
    basis = torch.linalg.svd(old).U
    change = basis.T @ (new - old)
    mask = (change.abs() / change.abs().max().clamp_min(torch.finfo(old.dtype).tiny) + bias).clamp(max=1)
    return old + basis @ (mask * change)
