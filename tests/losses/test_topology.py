"""Topology preservation, momentum contrast and its queue against loops and lists."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.losses.contrastive import multi_positive_contrastive
from avalanche_vlm.losses.topology import FeatureQueue, momentum_contrast, topology_preservation


def features(*sizes: int, d: int = 3, seed: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, dtype=torch.float64, generator=generator) for n in sizes]


def cosines(a: torch.Tensor, b: torch.Tensor) -> list[list[float]]:
    def cosine(x, y):
        length = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
        return sum(v * w for v, w in zip(x, y, strict=True)) / length

    return [[cosine(x, y) for y in b.tolist()] for x in a.tolist()]


def softmax(row: list[float]) -> list[float]:
    exps = [math.exp(v) for v in row]
    return [e / sum(exps) for e in exps]


def kl_by_hand(new, old, temperature: float, drop_self: bool) -> float:
    total = 0.0
    for i, (s, t) in enumerate(zip(new, old, strict=True)):
        p, q = (softmax([v / temperature for j, v in enumerate(row) if not (drop_self and j == i)]) for row in (s, t))
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return total / len(new)


def test_topology_equals_the_loop():
    si, st_, ti, tt = features(4, 4, 4, 4)
    expected = 0.0
    for new, old, within in (
        ((si, st_), (ti, tt), False),
        ((st_, si), (tt, ti), False),
        ((si, si), (ti, ti), True),
        ((st_, st_), (tt, tt), True),
    ):
        expected += kl_by_hand(cosines(*new), cosines(*old), 0.5, within) / 2
    assert topology_preservation(si, st_, ti, tt, 0.5).item() == pytest.approx(expected, abs=1e-12)


def test_topology_lets_both_towers_rotate_together_and_widths_differ():
    images, texts = features(4, 4)
    rotation = torch.linalg.qr(features(6, d=6)[0]).Q[:3]
    turned = [images @ rotation, texts @ rotation]
    assert abs(topology_preservation(*turned, images, texts).item()) < 1e-10
    assert topology_preservation(turned[0], texts @ rotation.roll(1, 1), images, texts) > 0.1


def test_topology_has_a_right_gradient_none_for_the_teacher_and_zero_at_the_teacher():
    si, st_, ti, tt = (x.requires_grad_() for x in features(3, 3, 3, 3))
    topology_preservation(si, st_, ti, tt).backward()
    assert ti.grad is None and tt.grad is None and si.grad.abs().max() > 1e-3
    assert torch.autograd.gradcheck(lambda a, b: topology_preservation(a, b, ti, tt, 0.5), (si, st_))
    same = [x.detach().clone().requires_grad_() for x in (ti, tt)]
    topology_preservation(*same, ti, tt).backward()
    assert max(x.grad.abs().max() for x in same) < 1e-12


def test_topology_does_not_depend_on_the_order_of_the_pairs_and_takes_a_single_one():
    tensors = features(4, 4, 4, 4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(topology_preservation(*(x[order] for x in tensors)), topology_preservation(*tensors))
    assert topology_preservation(*(x[:1] for x in tensors)).item() == 0


def contrast_by_hand(queries, keys, right, temperature: float) -> float:
    losses = []
    for row, matches in zip(cosines(queries, keys), right, strict=True):
        logs = [math.log(p) for p in softmax([v / temperature for v in row])]
        losses.append(-sum(v for v, m in zip(logs, matches, strict=True) if m) / sum(matches))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("q", [0, 5])
@pytest.mark.parametrize("named", [False, True])
def test_momentum_contrast_equals_the_loop(q, named):
    i, t, mi, mt, qi, qt = features(3, 3, 3, 3, q, q)
    ids, queued = [7, 8, 7], [8, 9, 9, 7, 8][:q]
    if named:
        right = [[a == b for b in ids + queued] for a in ids]
        got = momentum_contrast(i, t, mi, mt, qi, qt, 0.4, torch.tensor(ids), torch.tensor(queued, dtype=torch.int64))
    else:
        right = [[a == b for b in range(3 + q)] for a in range(3)]
        got = momentum_contrast(i, t, mi, mt, qi, qt, 0.4)
    expected = contrast_by_hand(i, torch.cat([mt, qt]), right, 0.4) + contrast_by_hand(
        t, torch.cat([mi, qi]), right, 0.4
    )
    assert got.item() == pytest.approx(expected / 2, abs=1e-12)


def test_with_no_queue_and_momentum_features_of_its_own_it_is_the_contrastive_loss():
    i, t, empty = (torch.nn.functional.normalize(x, dim=1) for x in features(4, 4, 0))
    y = torch.tensor([0, 1, 0, 2])
    expected = multi_positive_contrastive(i @ t.T / 0.1, y)
    torch.testing.assert_close(momentum_contrast(i, t, i, t, empty, empty, 0.1, y, y[:0]), expected)


def test_momentum_contrast_has_a_right_gradient_and_gives_none_to_momentum_and_queue():
    i, t, *others = (x.requires_grad_() for x in features(3, 3, 3, 3, 2, 2))
    momentum_contrast(i, t, *others).backward()
    assert all(x.grad is None for x in others)
    assert torch.autograd.gradcheck(lambda a, b: momentum_contrast(a, b, *others, 0.5), (i, t))


def test_momentum_contrast_does_not_depend_on_the_order_of_batch_and_queue():
    i, t, mi, mt, qi, qt = features(3, 3, 3, 3, 4, 4)
    y, queue_y = torch.tensor([1, 2, 1]), torch.tensor([2, 3, 3, 1])
    batch, queue = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    shuffled = [*(x[batch] for x in (i, t, mi, mt)), *(x[queue] for x in (qi, qt))]
    expected = momentum_contrast(i, t, mi, mt, qi, qt, 0.2, y, queue_y)
    torch.testing.assert_close(momentum_contrast(*shuffled, 0.2, y[batch], queue_y[queue]), expected)


@pytest.mark.parametrize(("y", "queue_y"), [([1, 2, 3], None), (None, [1, 2]), ([1, 2, 3], [1])])
def test_ids_that_are_not_of_all_candidates_are_refused(y, queue_y):
    y, queue_y = (None if ids is None else torch.tensor(ids) for ids in (y, queue_y))
    with pytest.raises(ValueError, match="one for each of 3 pairs and 2 queued ones"):
        momentum_contrast(*features(3, 3, 3, 3, 2, 2), 0.1, y, queue_y)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.lists(st.integers(0, 9), max_size=8))
def test_the_queue_is_the_tail_of_a_list(size, batches):
    queue, everything = FeatureQueue(size, 2), []
    for batch in batches:
        ids = list(range(len(everything), len(everything) + batch))
        everything += ids
        queue.push(torch.tensor([[i, -i] for i in ids], dtype=torch.float32).reshape(-1, 2), torch.tensor(ids).long())
        features, kept = queue.entries()
        assert kept.tolist() == everything[-size:]
        assert features.tolist() == [[i, -i] for i in everything[-size:]]
        assert len(queue) == min(size, len(everything))
    assert queue.nbytes == size * (2 * 4 + 8)


def test_the_queue_keeps_copies_without_a_graph_and_gives_copies():
    queue = FeatureQueue(4, 2)
    source = torch.ones(2, 2, requires_grad=True)
    queue.push(source * 2, torch.tensor([0, 1]))
    features, ids = queue.entries()
    assert not features.requires_grad
    features.zero_(), ids.fill_(9)
    assert (queue.entries()[0] == 2).all() and queue.entries()[1].tolist() == [0, 1]


def test_what_does_not_fit_the_queue_is_refused():
    for size, dim in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            FeatureQueue(size, dim)
    for features, ids in ((torch.ones(2, 3), torch.arange(2)), (torch.ones(2, 2), torch.arange(3))):
        with pytest.raises(ValueError, match=r"takes features \[B, 2\] with ids \[B\]"):
            FeatureQueue(4, 2).push(features, ids)


def test_a_queue_goes_on_from_its_state():
    old, new = FeatureQueue(3, 2), FeatureQueue(3, 2)
    old.push(torch.rand(2, 2), torch.tensor([5, 6]))
    new.load_state_dict(old.state_dict())
    for queue in (old, new):
        queue.push(torch.ones(2, 2), torch.tensor([7, 8]))
    assert all(torch.equal(a, b) for a, b in zip(old.entries(), new.entries(), strict=True)) and len(new) == 3
    assert old.features.data_ptr() != new.features.data_ptr()
    good = old.state_dict()
    for wrong, told in (
        ({"features": torch.zeros(3, 4)}, r"takes torch.float32 \[3, 2\] as its features, got torch.float32 \[3, 4\]"),
        ({"ids": torch.zeros(3)}, r"takes torch.int64 \[3\] as its ids, got torch.float32 \[3\]"),
        ({"filled": 4}, "takes 0 to 3 as 'filled', got 4"),
        ({"next": None}, "takes 0 to 2 as 'next', got None"),
        ({"ids": None}, "as its ids, got None"),
    ):
        with pytest.raises(ValueError, match=told):
            new.load_state_dict({**good, **wrong})
