"""Kernel ridge regression that takes in new samples without starting over (RAIL's dual form)."""

from __future__ import annotations

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.heads.analytic.base import Estimator


def rbf(a: torch.Tensor, b: torch.Tensor, gamma: float) -> torch.Tensor:
    """``exp(-gamma |a - b|^2)`` of all pairs of ``[N, D]`` and ``[M, D]``: ``[N, M]``.

    >>> rbf(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 0.5).tolist()
    [[1.0, 0.3678794503211975]]
    """
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return squares.clamp_min_(0).mul_(-gamma).exp_()


def grow_cholesky(factor: torch.Tensor, cross: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """The lower Cholesky factor of ``[[A, cross], [cross^T, corner]]`` from that of A: the rows that are there stay.

    :param factor: lower Cholesky factor of A, ``[N, N]``.
    :param cross: the block beside A, ``[N, n]``.
    :param corner: the block in the new corner, ``[n, n]``.

    >>> whole = torch.tensor([[4.0, 2.0], [2.0, 5.0]])
    >>> grow_cholesky(torch.tensor([[2.0]]), whole[:1, 1:], whole[1:, 1:]).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    below = torch.linalg.solve_triangular(factor, cross, upper=False).T
    n, old = len(corner), len(factor)
    larger = factor.new_zeros(old + n, old + n)
    larger[:old, :old] = factor
    larger[old:, :old] = below
    larger[old:, old:] = torch.linalg.cholesky(corner - below @ below.T)
    return larger


class KernelRidge(Estimator):
    """RAIL's dual form: ridge regression with a Gaussian kernel on all samples seen (Xu et al., arXiv
    2406.18868).

    After any number of experiences the estimates are those of one fit on all samples. The authors' code fits anew on
    all features with every experience; here the Cholesky factor grows by the new rows, which is the same solution.
    The price of the dual form is that it keeps everything: ``D`` float32 features and a label per sample, and
    ``N^2`` numbers of the factor (800 MB for 10,000 samples in float64). It is meant for few shots per class, as
    published (16).

    The estimates are raw regression values: near 0 and 1, but not probabilities.

    :param gamma: sharpness of the kernel, positive.
    :param ridge: added to the kernel matrix's diagonal, positive.
    :param precision: precision of the state, ``"float64"`` or ``"float32"``; float32 fails where the kernel matrix is
        as good as singular.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    factor: torch.Tensor
    dual: torch.Tensor

    def __init__(self, gamma: float = 0.1, ridge: float = 0.001, *, precision: str = "float64") -> None:
        super().__init__(precision)
        if gamma <= 0 or ridge <= 0:
            raise InputError(f"gamma and ridge of a kernel are positive, not {gamma} and {ridge}")
        self.gamma, self.ridge = gamma, ridge
        self.register_buffer("inputs", torch.zeros(0, 0))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.long))
        self.register_buffer("factor", torch.zeros(0, 0, dtype=self.dtype))
        self.register_buffer("dual", torch.zeros(0, 0, dtype=self.dtype))

    @property
    def width(self) -> int:
        """Numbers per feature, 0 before the first."""
        return self.inputs.shape[1]

    def update(self, features: torch.Tensor, y: torch.Tensor) -> None:
        features = features.float().to(self.dtype)  # as they are kept
        old = self.inputs.to(features) if len(self.inputs) else features[:0]
        corner = rbf(features, features, self.gamma)
        corner.diagonal().add_(self.ridge)
        try:
            factor = grow_cholesky(self.factor.to(features), rbf(old, features, self.gamma), corner)
        except torch.linalg.LinAlgError as error:
            raise InputError(
                f"the kernel matrix of {len(old) + len(y)} samples is singular in {str(self.dtype)[6:]}: "
                "take float64 or a larger ridge"
            ) from error
        self.inputs = torch.cat([old.float(), features.float()])
        self.labels = torch.cat([self.labels.to(y.device), y])
        self.factor = factor
        self.dual = torch.cholesky_solve(self.targets(self.labels), factor)

    def estimate(self, features: torch.Tensor, competes: torch.Tensor) -> torch.Tensor:
        """Values of the regression ``[B, C]``."""
        return rbf(features, self.inputs.to(features), self.gamma) @ self.dual
