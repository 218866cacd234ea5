"""Logit distillation against loops."""

from __future__ import annotations

import math

import pytest
import torch

from avalanche_vlm.losses.distillation import logit_distillation


def pair(n: int = 4, m: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(3 * torch.randn(n, m, dtype=torch.float64, generator=generator) for _ in range(2))


def by_hand(student: list[list[float]], teacher: list[list[float]], temperature: float) -> float:
    def softmax(row):
        top = [math.exp(v / temperature) for v in row]
        return [v / sum(top) for v in top]

    losses = []
    for s, t in zip(student, teacher, strict=True):
        losses.append(-sum(q * math.log(p) for p, q in zip(softmax(s), softmax(t), strict=True)))
    return temperature**2 * sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_equals_the_loop(temperature):
    student, teacher = pair()
    rows = by_hand(student.tolist(), teacher.tolist(), temperature)
    columns = by_hand(student.T.tolist(), teacher.T.tolist(), temperature)
    for direction, expected in (("rows", rows), ("columns", columns), ("both", rows + columns)):
        got = logit_distillation(student, teacher, temperature, direction).item()
        assert got == pytest.approx(expected, abs=1e-9), direction


def test_a_model_distilled_into_itself_has_no_gradient_and_is_at_the_minimum():
    _, teacher = pair()
    student = teacher.clone().requires_grad_()
    loss = logit_distillation(student, teacher)
    loss.backward()
    assert student.grad.abs().max() < 1e-12
    assert loss < logit_distillation(teacher + torch.randn_like(teacher), teacher)


def test_the_teacher_gets_no_gradient_and_the_student_a_right_one():
    student, teacher = (x.requires_grad_() for x in pair())
    logit_distillation(student, teacher).backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: logit_distillation(s, teacher.detach()), (student,))


def test_what_shifts_all_texts_alike_changes_no_row():
    student, teacher = pair()
    shift = torch.randn(len(student), 1, dtype=torch.float64)
    expected = logit_distillation(student, teacher, direction="rows").item()
    assert logit_distillation(student + shift, teacher, direction="rows").item() == pytest.approx(expected, abs=1e-9)
