"""Nearest class means and linear discriminant analysis, against scikit-learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from avalanche_vlm.models.heads.analytic import NearestClassMean


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    centres = F.normalize(torch.randn(5, 10), dim=1)
    y = torch.cat([torch.arange(5), torch.randint(5, (195,))])
    shape = torch.randn(10, 10) / 10
    return F.normalize(centres[y] + torch.randn(200, 10) @ shape, dim=1), y


def fitted(head, x, y):
    """In three experiences, in which classes come again."""
    for rows in torch.arange(200).split([60, 100, 40]):
        head.fit(x[rows], y[rows])
    return head


def test_the_nearest_class_mean(data):
    x, y = data
    head = fitted(NearestClassMean(50.0), x, y)
    means = torch.stack([F.normalize(x[y == c].double().mean(0), dim=0) for c in range(5)])
    expected = (50 * x.double() @ means.T).softmax(1)
    torch.testing.assert_close(head(x), expected, atol=1e-6, rtol=0)  # normalised features are so to float32 alone
    reference = KNeighborsClassifier(1).fit(means.numpy(), range(5))
    assert head(x).argmax(1).tolist() == reference.predict(x.double().numpy()).tolist()


def test_classes_that_do_not_compete_take_nothing_away(data):
    x, y = data
    head = NearestClassMean()
    head.fit(x, torch.where(y == 2, 6, y))
    alone = head(x)
    assert (alone[:, [2, 5]] == 0).all()
    torch.testing.assert_close(alone.sum(1), torch.ones(200).double())
    competes = torch.rand(200, 7) < 0.5
    competes[:, 1] = True
    expected = torch.where(competes, alone, 0)
    found = head(x, competes)
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), atol=1e-9, rtol=0)


def test_a_loaded_head_goes_on_where_it_was(data):
    x, y = data
    head, fresh = NearestClassMean(), NearestClassMean()
    head.fit(x[:90], y[:90])
    fresh.load_state_dict(head.state_dict())
    for other in (head, fresh):
        other.fit(x[90:], y[90:] + 2)
    assert torch.equal(fresh(x), head(x))
    assert head.stored().total == sum(b.nbytes for b in head.buffers()) > 8 * 7 * 10
