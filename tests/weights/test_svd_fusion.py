"""Fusion of single matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from avalanche_vlm.weights.svd_fusion import svd_fusion


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_fusion_equals_the_published_steps_one_element_at_a_time():
    old, new = matrix(6, 6), matrix(6, 6, seed=1)
    u, s, vt = np.linalg.svd(old.numpy())
    projected_old, projected_new = np.diag(s) @ vt, u.T @ new.numpy()
    distance = np.abs(projected_new - projected_old)
    right = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            mask = min(1.0, distance[i, j] / distance.max() + 0.6)
            right[i, j] = projected_new[i, j] * mask + projected_old[i, j] * (1 - mask)
    np.testing.assert_allclose(svd_fusion(old, new).numpy(), u @ right, atol=1e-12)


def test_the_ends_of_the_fusion():
    old, new = matrix(5, 5), matrix(5, 5, seed=1)
    torch.testing.assert_close(svd_fusion(old, new, bias=1.0), new)
    assert torch.equal(svd_fusion(old, old), old)
    # Every element of the change keeps at least the bias and at most all of itself.
    basis = torch.linalg.svd(old).U
    kept = (basis.T @ (svd_fusion(old, new, bias=0.3) - old)) / (basis.T @ (new - old))
    assert kept.min() >= 0.3 - 1e-9 and kept.max() <= 1 + 1e-9 and kept.max() > 0.999


@pytest.mark.parametrize(
    ("old", "new", "bias", "message"),
    [
        (torch.eye(3), torch.eye(2), 0.5, r"one size, got \[3, 3\] and \[2, 2\]"),
        (torch.zeros(2, 3), torch.zeros(2, 3), 0.5, "two square matrices"),
        (torch.eye(3), torch.eye(3), 1.5, "lies in .0, 1., not 1.5"),
    ],
)
def test_what_cannot_be_fused(old, new, bias, message):
    with pytest.raises(ValueError, match=message):
        svd_fusion(old, new, bias)
