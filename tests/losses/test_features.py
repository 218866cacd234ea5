"""Losses on features against loops."""

from __future__ import annotations

import math

import pytest
import torch

from avalanche_vlm.losses.features import (
    contrastive_knowledge_consolidation,
    feature_l2,
)


def features(count: int, n: int = 4, d: int = 3, seed: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, dtype=torch.float64, generator=generator) for _ in range(count))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(rows: torch.Tensor) -> list[list[float]]:
    return [[v / math.sqrt(dot(row, row)) for v in row] for row in rows.tolist()]


def test_distances_and_cosines_equal_the_loops():
    student, teacher = features(2)
    squares = [dot(d, d) for d in (student - teacher).tolist()]
    for losses, got in (
        ([math.sqrt(s) for s in squares], lambda r: feature_l2(student, teacher, reduction=r)),
        (squares, lambda r: feature_l2(student, teacher, squared=True, reduction=r)),
    ):
        assert got("none").tolist() == pytest.approx(losses, abs=1e-12)
        assert got("mean").item() == pytest.approx(sum(losses) / 4, abs=1e-12)


def test_consolidation_equals_the_loop_over_both_modalities():
    si, st, ti, tt = features(4)
    student, teacher = unit(torch.cat([si, st])), unit(torch.cat([ti, tt]))
    losses = []
    for queries, keys in ((student, teacher), (teacher, student)):
        for index, query in enumerate(queries):
            scores = [math.exp(dot(query, key) / 0.3) for key in keys]
            losses.append(-math.log(scores[index] / sum(scores)))
    got = contrastive_knowledge_consolidation(si, st, ti, tt, temperature=0.3).item()
    assert got == pytest.approx(sum(losses) / 16, abs=1e-12)


def test_consolidation_needs_no_positives_among_equal_texts_with_equal_features():
    si, ti, st, tt = features(4)
    y = torch.tensor([0, 1, 0, 2])
    st, tt = st[y], tt[y]
    student, teacher = (torch.nn.functional.normalize(torch.cat(x), dim=1) for x in ((si, st), (ti, tt)))
    matches = torch.eye(8, dtype=torch.bool)
    matches[4:, 4:] = y[:, None] == y[None, :]
    targets = matches / matches.sum(1, keepdim=True)
    logits = student @ teacher.T / 0.07
    soft = sum(torch.nn.functional.cross_entropy(x, targets.double()) for x in (logits, logits.T)) / 2
    torch.testing.assert_close(contrastive_knowledge_consolidation(si, st, ti, tt), soft)


def test_consolidation_of_pairs_tells_joined_vectors_apart():
    si, st, ti, tt = features(4)
    n, logits = len(si), []
    for row in range(n):
        new = torch.cat([si[row], st[row]])
        old = [torch.cat([ti[other], tt[other]]) for other in range(n)]
        logits.append(torch.stack([new @ x / new.norm() / x.norm() / 0.3 for x in old]))
    matrix = torch.stack(logits)
    expected = -(matrix.log_softmax(1).diagonal() + matrix.log_softmax(0).diagonal()).mean() / 2
    torch.testing.assert_close(contrastive_knowledge_consolidation(si, st, ti, tt, 0.3, "pairs"), expected)


PAIRWISE = [
    feature_l2,
    lambda s, t: feature_l2(s, t, squared=True),
]
CONSOLIDATION = [lambda s, t: contrastive_knowledge_consolidation(s[:2], s[2:], t[:2], t[2:], 0.5)]


@pytest.mark.parametrize("loss", PAIRWISE + CONSOLIDATION)
def test_the_students_gradient_is_right_and_the_teacher_gets_none(loss):
    student, teacher = (x.requires_grad_() for x in features(2))
    loss(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().max() > 1e-3
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


@pytest.mark.parametrize("loss", PAIRWISE)
def test_where_the_student_equals_the_teacher_loss_and_gradient_are_zero(loss):
    (teacher,) = features(1)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert abs(value.item()) < 1e-12 and student.grad.abs().max() < 1e-7


@pytest.mark.parametrize("loss", PAIRWISE)
def test_the_order_of_the_batch_does_not_matter(loss):
    student, teacher = features(2)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


def test_the_order_of_the_pairs_does_not_matter():
    loss = contrastive_knowledge_consolidation
    tensors = features(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(*(x[order] for x in tensors)), loss(*tensors))


def test_features_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"features of one shape, got \[4, 3\], \[2, 3\]"):
        feature_l2(features(1)[0], features(1, n=2)[0])
    with pytest.raises(ValueError, match=r"got \[4, 3\], \[4, 3\], \[4, 3\], \[4, 2\]"):
        contrastive_knowledge_consolidation(*features(3), *features(1, d=2))
