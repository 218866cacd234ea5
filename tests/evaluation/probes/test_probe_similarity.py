"""CKA and RSA against their definitions, and what they must not see."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.probes.similarity import cross_modal_rsa, linear_cka, rsa, spearman

quick = settings(max_examples=30, deadline=None, derandomize=True)


def draw(n: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dim: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(draw(dim, dim, seed))[0]


def loops(x, y) -> float:
    """Eq. of section 3.2 in plain loops: squared covariances between all columns, over those within each side."""

    def cross(a, b):
        return sum(
            float(np.dot(a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean())) ** 2
            for i in range(a.shape[1])
            for j in range(b.shape[1])
        )

    x, y = x.numpy(), y.numpy()
    return cross(x, y) / math.sqrt(cross(x, x) * cross(y, y))


def u_statistic(x, y) -> float:
    """HSIC as a mean over all ordered quadruples of distinct samples, in which no product meets itself."""

    def hsic(k, el):
        quadruples = list(itertools.permutations(range(len(k)), 4))
        return sum(k[i, j] * (el[i, j] + el[q, r] - 2 * el[i, q]) for i, j, q, r in quadruples) / len(quadruples)

    k, el = (x @ x.T).numpy(), (y @ y.T).numpy()
    return float(hsic(k, el) / math.sqrt(hsic(k, k) * hsic(el, el)))


@pytest.mark.parametrize(("n", "d", "e"), [(12, 3, 5), (6, 9, 4), (40, 1, 1)])
def test_linear_cka_is_what_loops_give(n, d, e):
    x, y = draw(n, d, 0) + 3, draw(n, e, 1) + draw(n, d, 0)[:, :1]
    assert linear_cka(x, y) == pytest.approx(loops(x, y), rel=1e-9)


def test_debiased_cka_is_a_mean_over_quadruples():
    x = draw(7, 3, 0)
    y = x @ draw(3, 4, 1) + 0.5 * draw(7, 4, 2) + 1
    assert linear_cka(x, y, debiased=True) == pytest.approx(u_statistic(x, y), rel=1e-8)


def test_only_the_debiased_one_knows_that_wide_features_are_unrelated():
    pairs = [(draw(64, 256, 2 * s), draw(64, 256, 2 * s + 1)) for s in range(5)]
    assert min(linear_cka(*pair) for pair in pairs) > 0.7
    assert max(abs(linear_cka(*pair, debiased=True)) for pair in pairs) < 0.05


@quick
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.booleans())
def test_cka_is_blind_to_rotation_scale_and_shift_and_to_nothing_else(seed, scale, debiased):
    x, y = draw(16, 5, seed), draw(16, 4, seed + 1)
    turned = scale * x @ rotation(5, seed + 2) + 7
    value = linear_cka(x, y, debiased)
    assert linear_cka(turned, y, debiased) == pytest.approx(value, abs=1e-8)
    assert linear_cka(y, x, debiased) == pytest.approx(value, abs=1e-12)
    assert linear_cka(x, turned, debiased) == pytest.approx(1, abs=1e-9)
    stretched = x * torch.tensor([30.0, 1, 1, 1, 1], dtype=x.dtype)
    assert linear_cka(x, stretched, debiased) < 0.99
    if not debiased:
        assert 0 <= value <= 1


def test_features_that_do_not_vary_have_no_cka():
    x = draw(8, 3, 0)
    assert math.isnan(linear_cka(x, torch.ones(8, 2))) and math.isnan(linear_cka(torch.ones(8, 2), x, debiased=True))


@pytest.mark.parametrize("shapes", [((3, 2), (3, 2)), ((8, 2), (7, 2)), ((8,), (8, 1))])
def test_what_cka_cannot_compare_is_named(shapes):
    with pytest.raises(InputError, match=str(list(shapes[0])).replace("[", r"\[")):
        linear_cka(torch.zeros(shapes[0]), torch.zeros(shapes[1]), debiased=True)


@quick
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=30))
def test_spearman_is_scipys_with_ties(pairs):
    x, y = (torch.tensor(column, dtype=torch.float32) for column in zip(*pairs, strict=True))
    if len(x.unique()) == 1 or len(y.unique()) == 1:
        assert math.isnan(spearman(x, y))
    else:
        assert spearman(x, y) == pytest.approx(spearmanr(x.numpy(), y.numpy()).statistic, abs=1e-12)


def test_rsa_is_scipys_on_upper_triangles():
    x, y = draw(20, 4, 0), draw(20, 6, 1) + draw(20, 4, 0)[:, :1]
    expected = spearmanr(pdist(x.numpy(), "cosine"), pdist(y.numpy(), "cosine")).statistic
    assert rsa(x, y) == pytest.approx(expected, abs=1e-12)
    assert rsa(x, x @ rotation(4, 2)) == pytest.approx(1, abs=1e-3)  # up to ties in the last digit
    with pytest.raises(InputError, match="as many"):
        rsa(x, y[:5])


def test_only_cross_modal_rsa_sees_one_tower_turn():
    images, texts = draw(30, 6, 0), draw(30, 6, 0) + 0.3 * draw(30, 6, 1)
    turn = rotation(6, 2)
    assert rsa(images @ turn, images) > 0.999 and linear_cka(images @ turn, images) > 0.999
    assert cross_modal_rsa(images @ turn, texts, images, texts) < 0.6
    assert cross_modal_rsa(images @ turn, texts @ turn, images, texts) > 0.999
    similarity = [(a / a.norm(dim=1, keepdim=True)).numpy() for a in (images @ turn, texts, images)]
    expected = spearmanr((similarity[0] @ similarity[1].T).ravel(), (similarity[2] @ similarity[1].T).ravel())
    assert cross_modal_rsa(images @ turn, texts, images, texts) == pytest.approx(expected.statistic, abs=1e-9)
