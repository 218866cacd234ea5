"""Maps between feature spaces against independent solvers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.attribution.maps import linear_map, procrustes


def test_procrustes_is_scipys_and_orthogonal():
    source, target = torch.randn(50, 8, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64)
    found = procrustes(source, target)
    expected, _ = scipy.linalg.orthogonal_procrustes(source.numpy(), target.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(found @ found.T, np.eye(8), atol=1e-10)


def test_procrustes_finds_a_rotation_that_was_made():
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    source = torch.randn(40, 6)
    torch.testing.assert_close(procrustes(source, source.double() @ turn), turn)


def test_a_linear_map_is_the_minimum_of_its_objective():
    source, target, ridge = torch.randn(30, 5).double(), torch.randn(30, 4).double(), 0.3
    found = linear_map(source, target, ridge)
    strength = ridge * source.square().sum(0).mean()
    # The same as ordinary least squares with rows that pull towards zero.
    rows = np.vstack([source.numpy(), np.sqrt(strength.item()) * np.eye(5)])
    expected = np.linalg.lstsq(rows, np.vstack([target.numpy(), np.zeros((5, 4))]), rcond=None)[0]
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_what_cannot_be_mapped_is_refused():
    with pytest.raises(InputError, match="pairs of rows"):
        procrustes(torch.randn(3, 2), torch.randn(3, 4))
    with pytest.raises(InputError, match="pairs of rows"):
        linear_map(torch.randn(3, 2), torch.randn(4, 2))
    with pytest.raises(InputError, match="NaN or infinite"):
        procrustes(torch.full((3, 2), torch.nan), torch.randn(3, 2))
    with pytest.raises(InputError, match="must be positive"):
        linear_map(torch.randn(3, 2), torch.randn(3, 2), ridge=0)
