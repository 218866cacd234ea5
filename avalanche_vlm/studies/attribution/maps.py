"""Maps from one feature space to another as pure functions on tensors."""

from __future__ import annotations

import torch

from avalanche_vlm.errors import InputError


def procrustes(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The orthogonal matrix R that brings ``source @ R`` nearest to ``target`` in the Frobenius norm: a rotation,
    perhaps with a reflection (Schönemann 1966, doi 10.1007/BF02289451). With ``source^T target = U S V^T``, R = U V^T.

    :param source: features ``[N, D]`` to rotate.
    :param target: features ``[N, D]``, row n what row n of the source should become.
    :return: ``[D, D]``, float64.
    :raises InputError: if the shapes differ or a number is not finite.

    >>> procrustes(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [-2.0, 0.0]])).round().tolist()
    [[0.0, 1.0], [-1.0, 0.0]]
    """
    source, target = _checked(source, target)
    u, _, v = torch.linalg.svd(source.T @ target)
    return u @ v


def linear_map(source: torch.Tensor, target: torch.Tensor, ridge: float = 0.1) -> torch.Tensor:
    """The matrix W that minimises ``|source @ W - target|^2 + ridge * s |W|^2``, where s is the mean of the diagonal of
    ``source^T source``, so that the strength means the same for few and for many rows (ridge regression).

    :param source: features ``[N, D]`` to map.
    :param target: features ``[N, E]``, row n what row n of the source should become.
    :param ridge: strength of the regularisation, above 0.
    :return: ``[D, E]``, float64.
    :raises InputError: if the rows do not pair up, a number is not finite, or the ridge is not positive.

    >>> linear_map(torch.eye(2), torch.tensor([[3.0], [0.0]]), ridge=0.5).tolist()
    [[2.0], [0.0]]
    """
    if not ridge > 0:
        raise InputError(f"the ridge of a linear map must be positive, not {ridge}")
    source, target = _checked(source, target, same_width=False)
    gram = source.T @ source
    strength = ridge * gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    return torch.linalg.solve(
        gram + strength * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), source.T @ target
    )


def _checked(source: torch.Tensor, target: torch.Tensor, same_width: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    fits = source.ndim == target.ndim == 2 and len(source) == len(target) > 0
    if not fits or (same_width and source.shape != target.shape):
        raise InputError(
            "a map between feature spaces is fitted on pairs of rows, "
            f"not on {list(source.shape)} and {list(target.shape)}"
        )
    source, target = source.double(), target.double().to(source.device)
    if not (source.isfinite().all() and target.isfinite().all()):
        raise InputError("a map between feature spaces cannot be fitted on features that are NaN or infinite")
    return source, target
