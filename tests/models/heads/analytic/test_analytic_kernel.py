"""Kernel ridge regression that grows, against scikit-learn's on all samples at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.kernel_ridge import KernelRidge as Reference

from avalanche_vlm.errors import InputError
from avalanche_vlm.models.heads.analytic import KernelRidge
from avalanche_vlm.models.heads.analytic.kernel import grow_cholesky, rbf


def data(n: int = 120, width: int = 12, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    centres = F.normalize(torch.randn(classes, width), dim=1)
    y = torch.arange(n) % classes
    return F.normalize(centres[y] + 0.2 * torch.randn(n, width), dim=1), y


@pytest.mark.parametrize("cuts", [[120], [40, 40, 40], [1, 100, 19]])
def test_sequential_equals_joint(cuts):
    x, y = data()
    head = KernelRidge()
    for part, labels in zip(x.split(cuts), y.split(cuts), strict=True):
        head.fit(part, labels)
    reference = Reference(kernel="rbf", gamma=0.1, alpha=0.001).fit(x.double().numpy(), np.eye(5)[y.numpy()])
    queries = F.normalize(torch.randn(30, 12), dim=1)
    np.testing.assert_allclose(head(queries).numpy(), reference.predict(queries.double().numpy()), atol=1e-7)
    np.testing.assert_allclose(head.dual.numpy(), reference.dual_coef_, atol=1e-6)


def test_new_classes_and_classes_that_come_again():
    x, y = data()
    y = torch.where(y == 1, 7, y)
    head, whole = KernelRidge(), KernelRidge()
    for rows in (y < 3).nonzero()[:, 0], (y >= 3).nonzero()[:, 0][:40], (y >= 3).nonzero()[:, 0][40:]:
        head.fit(x[rows], y[rows])
    whole.fit(x, y)
    assert head.known.tolist() == [True, False, True, True, True, False, False, True]
    torch.testing.assert_close(head(x), whole(x), atol=1e-7, rtol=0)


def test_the_factor_grows_to_the_one_of_the_whole():
    root = torch.randn(9, 9).double()
    whole = root @ root.T + torch.eye(9).double()
    factor = torch.zeros(0, 0).double()
    for start, end in ((0, 4), (4, 5), (5, 9)):
        factor = grow_cholesky(factor, whole[:start, start:end], whole[start:end, start:end])
    torch.testing.assert_close(factor, torch.linalg.cholesky(whole), atol=1e-12, rtol=0)


def test_the_kernel_against_its_definition():
    a, b = torch.randn(5, 3).double(), torch.randn(4, 3).double()
    expected = torch.exp(-0.7 * (a[:, None] - b[None]).square().sum(-1))
    torch.testing.assert_close(rbf(a, b, 0.7), expected, atol=1e-12, rtol=0)
    assert (rbf(a, a, 0.7).diagonal() <= 1).all()


def test_a_loaded_head_goes_on_where_it_was():
    x, y = data()
    head, fresh = KernelRidge(), KernelRidge()
    head.fit(x[:50], y[:50])
    fresh.load_state_dict(head.state_dict())
    for other in (head, fresh):
        other.fit(x[50:], y[50:])
    assert torch.equal(fresh(x), head(x))
    assert head.stored().total == 4 * 120 * 12 + 8 * 120 + 8 * (120 * 120 + 120 * 5) + 5


def test_what_cannot_be_computed_is_refused_and_changes_nothing():
    x, y = data(20)
    head = KernelRidge(ridge=1e-9, precision="float32")
    head.fit(x, y)
    before = head.dual.clone()
    with pytest.raises(InputError, match="40 samples is singular in float32: take float64 or a larger ridge"):
        head.fit(x, y)  # every sample twice
    assert torch.equal(head.dual, before) and len(head.inputs) == len(head.labels) == 20
    with pytest.raises(InputError, match="positive, not 0 and"):
        KernelRidge(gamma=0)
