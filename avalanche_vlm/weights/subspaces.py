"""Subspaces in which weights may move: null spaces of features, tails of weights, and projections onto them.

A subspace of R^D is given by a basis ``[D, k]`` with orthonormal columns; its projector is ``basis basis^T``.
"""

from __future__ import annotations

import torch


@torch.no_grad()
def accumulate_covariance(covariance: torch.Tensor, features: torch.Tensor) -> None:
    """``covariance += features^T features``, in place: the uncentred covariance, as a sum over samples.

    :param covariance: ``[D, D]``; changed. In float64 the null space of few inputs is exact to single precision; in
        float32 directions below about ``D * 1e-7`` of the energy cannot be told from noise.
    :param features: ``[..., D]``, for example a layer's inputs ``[B, L, D]``.

    >>> covariance = torch.zeros(2, 2)
    >>> accumulate_covariance(covariance, torch.tensor([[[1.0, 2.0]], [[1.0, 0.0]]])); covariance
    tensor([[2., 2.],
            [2., 4.]])
    """
    rows = features.detach().reshape(-1, features.shape[-1]).to(covariance)
    covariance.addmm_(rows.T, rows)


@torch.no_grad()
def null_space(covariance: torch.Tensor, tail_energy: float = 0.15) -> torch.Tensor:
    """The directions that hold little of the features' energy: eigenvectors from the smallest eigenvalue up, for as
    long as their eigenvalues' sum is at most ``tail_energy`` of the total.

    GNSP's approximate null space (arXiv 2507.19839, authors' code, published share 0.15); the idea is Adam-NSCL's
    (arXiv 2103.07113).

    :param covariance: ``[D, D]``, symmetric and positive semi-definite.
    :param tail_energy: share of the total energy that the null space may hold, in [0, 1]. 0 gives the numerical null
        space: a share of ``D`` times the machine precision of the covariance's type counts as zero.
    :return: basis ``[D, k]``, from the emptiest direction on; all of R^D where the covariance is zero.
    :raises ValueError: for a share out of its range.

    >>> null_space(torch.diag(torch.tensor([80.0, 10.0, 5.0, 5.0])), tail_energy=0.15).shape
    torch.Size([4, 2])
    """
    if not 0 <= tail_energy <= 1:
        raise ValueError(f"the tail's share of the energy lies in [0, 1], not {tail_energy}")
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    noise = len(values) * torch.finfo(values.dtype).eps
    # Sums of round numbers miss their share by rounding: the tolerance serves these as well.
    kept = values.cumsum(0) <= (tail_energy + noise) * values.sum()
    return vectors[:, kept].clone()


@torch.no_grad()
def weight_tail(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The singular directions that a weight uses least: where NuSA-CL (arXiv 2510.21175) puts its changes
    ``U_n M V_n^T``, and KeepLoRA's residual subspace (arXiv 2601.19659).

    :param weight: weight ``[out, in]`` of a linear layer.
    :param rank: how many directions, at most the smaller side; NuSA-CL takes up to 128.
    :return: ``U_n [out, rank]`` and ``V_n [in, rank]``, orthonormal, of the smallest singular values of the thin SVD.
    :raises ValueError: if there are not that many.

    >>> u, v = weight_tail(torch.diag(torch.tensor([3.0, 2.0, 0.5])), rank=1)
    >>> u.abs().T, v.abs().T
    (tensor([[0., 0., 1.]]), tensor([[0., 0., 1.]]))
    """
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(f"a weight {list(weight.shape)} has 1 to {min(weight.shape)} singular directions, not {rank}")
    u, _, v = torch.linalg.svd(weight.detach(), full_matrices=False)
    return u[:, -rank:].clone(), v[-rank:].T.clone()


@torch.no_grad()
def project(
    update: torch.Tensor, *, input_basis: torch.Tensor | None = None, output_basis: torch.Tensor | None = None
) -> torch.Tensor:
    """The part of a weight's change that reads only from one subspace and writes only into another:
    ``U U^T update V V^T``.

    With the null space of the inputs as ``input_basis``, a linear layer's outputs stay as they were for these inputs.

    :param update: change ``[out, in]`` of a linear layer's weight.
    :param input_basis: V ``[in, k]``, orthonormal; None for all inputs.
    :param output_basis: U ``[out, k]``, orthonormal; None for all outputs.
    :return: ``[out, in]``, of the update's type.

    >>> project(torch.ones(2, 3), input_basis=torch.eye(3)[:, 1:2])
    tensor([[0., 1., 0.],
            [0., 1., 0.]])
    """
    projected = update
    if input_basis is not None:
        projected = projected.to(input_basis) @ input_basis @ input_basis.T
    if output_basis is not None:
        projected = output_basis @ (output_basis.T @ projected.to(output_basis))
    return projected.to(update)


@torch.no_grad()
def grow_basis(basis: torch.Tensor, covariance: torch.Tensor, share: float) -> torch.Tensor:
    """A basis with the fewest further directions with which it holds a share of the energy.

    KeepLoRA's growth of the unified subspace, which is Gradient Projection Memory's (Saha et al., arXiv 2103.09762, eq.
    9): the eigenvectors of ``(I - M M^T) C (I - M M^T)`` from the largest eigenvalue on, until these and what ``M``
    holds sum up to the share of the trace of ``C``.

    :param basis: ``M [in, k]``, orthonormal columns; k may be 0.
    :param covariance: ``C [in, in]``, symmetric and positive semi-definite.
    :param share: share of the energy that is held then, in [0, 1].
    :return: ``[in, k']``, orthonormal, k' at least k and at most ``in``.

    >>> grow_basis(torch.eye(3)[:, :1], torch.diag(torch.tensor([1.0, 8.0, 1.0])), share=0.9).shape
    torch.Size([3, 2])
    """
    wanted = share * covariance.trace()
    rest = covariance - basis @ (basis.T @ covariance)
    rest = rest - (rest @ basis) @ basis.T
    held = covariance.trace() - rest.trace()
    energies, vectors = torch.linalg.eigh((rest + rest.T) / 2)
    energies, vectors = energies.flip(0), vectors.flip(1)
    # What is below the precision is no direction of the data.
    noise = torch.finfo(energies.dtype).eps * len(energies) * covariance.trace()
    before = held + energies.cumsum(0) - energies
    count = int(((before < wanted) & (energies > noise)).sum())
    # Rounding must not add up over tasks: M M^T has to stay a projector.
    grown = torch.cat([basis, vectors[:, :count]], dim=1)
    # Laid out as it is when it comes from a file: products round as they would have without one.
    return torch.linalg.qr(grown).Q.contiguous() if count else basis


@torch.no_grad()
def steepest_directions(gradient: torch.Tensor, basis: torch.Tensor, rank: int) -> torch.Tensor:
    """The input directions in which a loss falls fastest outside of a subspace: the first right singular vectors of
    ``G - G M M^T``.

    :param gradient: ``G [out, in]``.
    :param basis: ``M [in, k]``, orthonormal columns.
    :param rank: number of directions at most. Those that the projected gradient does not have are left out: nothing
        would keep them off the subspace.
    :return: orthonormal rows ``[r, in]``, r at most ``rank``; none where all inputs are protected.

    >>> steepest_directions(torch.tensor([[3.0, 2.0, 0.0]]), torch.eye(3)[:, :1], rank=2).abs()
    tensor([[0., 1., 0.]])
    """
    gradient, basis = gradient.float(), basis.float()
    _, strengths, vectors = torch.linalg.svd(gradient - gradient @ basis @ basis.T, full_matrices=False)
    noise = torch.finfo(strengths.dtype).eps * max(gradient.shape) * torch.linalg.matrix_norm(gradient)
    found = vectors[:rank][strengths[:rank] > noise]
    # Once more, as the weakest are the least exact.
    found = found - found @ basis @ basis.T
    return torch.linalg.qr(found.T).Q.T
