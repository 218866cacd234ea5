"""Subspaces and projections onto them."""

from __future__ import annotations

import pytest
import torch

from avalanche_vlm.weights.subspaces import (
    accumulate_covariance,
    null_space,
    project,
    weight_tail,
)


def features(n: int, width: int, rank: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    random = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, rank), (rank, width))]
    return random[0] @ random[1]


def assert_orthonormal(basis: torch.Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype), atol=tolerance, rtol=0)


def test_the_covariance_is_the_sum_of_outer_products_over_all_leading_dimensions():
    x = features(6, 4, 4).view(2, 3, 4)
    covariance = torch.zeros(4, 4, dtype=torch.float64)
    for part in x.split(1):
        accumulate_covariance(covariance, part)
    expected = sum(torch.outer(row, row) for row in x.reshape(-1, 4))
    torch.testing.assert_close(covariance, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("rank", [0, 3, 8])
def test_the_null_space_without_a_tail_is_the_kernel(rank):
    x = features(20, 8, rank)
    basis = null_space(x.T @ x, tail_energy=0)
    assert basis.shape == (8, 8 - rank)
    assert_orthonormal(basis)
    assert (x @ basis).abs().max().item() < 1e-7 if basis.numel() else rank == 8


@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.6, 1.0])
def test_the_tail_is_the_longest_that_holds_no_more_than_its_share(share):
    x = features(40, 9, 9)
    energy, directions = torch.linalg.eigh(x.T @ x)
    basis = null_space(x.T @ x, share)
    n = 0
    while n < 9 and sum(energy[: n + 1]) / sum(energy) <= share + 1e-12:
        n += 1
    assert basis.shape[1] == n
    assert_orthonormal(basis)
    # The same subspace, whatever its basis.
    torch.testing.assert_close(basis @ basis.T, directions[:, :n] @ directions[:, :n].T, atol=1e-10, rtol=0)
    held = ((x @ basis) ** 2).sum() / (x**2).sum()
    assert held <= share + 1e-9


def test_a_projection_holds_outputs_and_projects_once():
    x, update = features(20, 8, 3), features(5, 8, 5, seed=1)
    basis = null_space(x.T @ x, tail_energy=0)
    projected = project(update, input_basis=basis)
    assert (x @ update.T).abs().max() > 1 and (x @ projected.T).abs().max() < 1e-7
    torch.testing.assert_close(project(projected, input_basis=basis), projected, atol=1e-12, rtol=0)
    # What was taken away is orthogonal to what is left.
    assert abs((projected * (update - projected)).sum().item()) < 1e-10


def test_both_sides_are_a_projector_each():
    update, inside, outside = features(5, 8, 5), *(torch.linalg.qr(features(n, 3, 3, n)).Q for n in (8, 5))
    expected = (outside @ outside.T) @ update @ (inside @ inside.T)
    torch.testing.assert_close(project(update, input_basis=inside, output_basis=outside), expected)
    torch.testing.assert_close(project(update, output_basis=outside), (outside @ outside.T) @ update)
    assert torch.equal(project(update), update)
    assert project(update.float(), input_basis=inside).dtype == torch.float32


def test_the_tail_of_a_weight_meets_its_smallest_singular_values():
    weight = features(6, 9, 6)
    u, v = weight_tail(weight, 2)
    assert u.shape == (6, 2) and v.shape == (9, 2)
    assert_orthonormal(u)
    assert_orthonormal(v)
    smallest = torch.linalg.svdvals(weight)[-2:]
    torch.testing.assert_close(u.T @ weight @ v, torch.diag(smallest), atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match=r"\[6, 9\] has 1 to 6 singular directions, not 7"):
        weight_tail(weight, 7)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_out_of_its_range(share):
    with pytest.raises(ValueError, match=f"lies in .0, 1., not {share}"):
        null_space(torch.eye(2), share)
