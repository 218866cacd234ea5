"""The task loss on class labels."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from mini import mini
from torch import nn

from avalanche_vlm.benchmarks.label_space import PHOTO, join_tasks
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import MASKED
from avalanche_vlm.training.criteria import LANES, ClassCriterion, criterion_for


def by_hand(row: list[float], y: int, smoothing: float) -> float:
    """The smoothed cross-entropy of one sample over the classes that compete, in plain Python."""
    open_ = {c: value for c, value in enumerate(row) if value > MASKED}
    total = sum(math.exp(value) for value in open_.values())
    logs = {c: value - math.log(total) for c, value in open_.items()}
    target = {c: smoothing / len(open_) + (1 - smoothing) * (c == y) for c in open_}
    return -sum(target[c] * logs[c] for c in open_)


ROWS = [[2.0, -1.0, 0.5, MASKED, MASKED], [MASKED, 3.0, MASKED, -4.0, MASKED], [0.1, 0.2, 0.3, 0.4, 0.5]]
LABELS = [0, 3, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_smoothing_covers_the_classes_that_compete_and_no_others(reduction, dtype):
    expected = torch.tensor([by_hand(row, y, 0.2) for row, y in zip(ROWS, LABELS, strict=True)])
    expected = expected if reduction == "none" else getattr(expected, reduction)()
    criterion = ClassCriterion(0.2)
    criterion.reduction = reduction  # as Avalanche's MIR does
    found = criterion(torch.tensor(ROWS, dtype=dtype), torch.tensor(LABELS))
    rounding = {torch.float16: 5e-3, torch.bfloat16: 3e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(found.float(), expected, rtol=rounding, atol=rounding)
    assert nn.CrossEntropyLoss(label_smoothing=0.2)(torch.tensor(ROWS), torch.tensor(LABELS)) > 500  # what torch's says


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_masked_columns_it_is_torchs_loss_and_gradient(smoothing, reduction):
    y = torch.tensor([0, 4, 2, 2])
    ours, theirs = (torch.randn(4, 5, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    one = ClassCriterion(smoothing, reduction)(ours, y)
    other = nn.CrossEntropyLoss(label_smoothing=smoothing, reduction=reduction)(theirs, y)
    torch.testing.assert_close(one, other)
    one.sum().backward()
    other.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0])])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_weights_and_ignored_targets_are_torchs(smoothing, reduction, weight, ignore_index):
    """Beside columns that are masked, torch's loss on the other columns alone is what is meant."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    y = torch.tensor([0, 4, 2, 1, ignore_index, 2])
    same = {"label_smoothing": smoothing, "reduction": reduction, "ignore_index": ignore_index}
    expected = nn.CrossEntropyLoss(weight, **same)(logits, y)
    torch.testing.assert_close(ClassCriterion(weight=weight, **same)(logits, y), expected)
    masked = torch.cat([logits, torch.full((6, 2), MASKED)], 1)
    wider = None if weight is None else torch.cat([weight, torch.tensor([7.0, 7.0])])
    torch.testing.assert_close(ClassCriterion(weight=wider, **same)(masked, y), expected)


def test_masked_columns_get_no_gradient():
    logits = torch.tensor(ROWS).requires_grad_()
    ClassCriterion(0.2)(logits, torch.tensor(LABELS)).backward()
    assert bool((logits.grad[logits == MASKED] == 0).all()) and bool(logits.grad[logits != MASKED].any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_the_label_space_task_the_loss_is_that_of_the_tasks_classes(dtype):
    """The issue's case: a loss of about 950, most of which was of columns that no sample could have."""
    tasks = [("one", ["star", "heart"], PHOTO), ("two", ["red", "blue", "green", "white", "black"], PHOTO)]
    model = mini().set_label_space(join_tasks(tasks)).train()
    images, labels, y = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]), torch.tensor([1, 2, 0, 6])
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = model(images, labels)
        loss = criterion_for("classes", model, 0.2)(logits, y)
    wanted = [by_hand(row, target, 0.2) for row, target in zip(logits.float().tolist(), y.tolist(), strict=True)]
    assert loss.item() == pytest.approx(sum(wanted) / 4, rel=1e-3)


def test_it_can_be_copied_and_pickled_and_refuses_other_shares():
    for again in (pickle.loads(pickle.dumps(ClassCriterion(0.1, "none"))), copy.deepcopy(ClassCriterion(0.1, "none"))):
        assert (again.label_smoothing, again.reduction) == (0.1, "none")
    for wrong in (-0.1, 1.0):
        with pytest.raises(InputError, match=r"label_smoothing: .* below 1"):
            ClassCriterion(wrong)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("n", [2, 3, 5, 10, 15, 16, 20])
def test_the_loss_is_bit_for_bit_the_same_however_many_classes_do_not_compete(n, smoothing):
    generator = torch.Generator().manual_seed(n)
    logits = 20 * torch.randn(64, n, generator=generator)
    y = torch.randint(n, (64,), generator=generator)
    criterion = ClassCriterion(smoothing, columns=LANES)
    found = []
    for first, width in ((0, n), (0, n + 1), (0, n + 13), (0, 100), (3, n + 3), (3, 40)):
        wide = torch.full((64, width), MASKED)
        wide[:, first : first + n] = logits
        wide.requires_grad_(True)
        loss = criterion(wide, y + first)
        loss.backward()
        found.append((loss.detach(), wide.grad[:, first : first + n]))
    (loss, gradient), *others = found
    assert all(torch.equal(loss, other) and torch.equal(gradient, of) for other, of in others)
    torch.testing.assert_close(loss, nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, y))


def test_a_stream_of_classes_that_may_grow_has_the_loss_of_a_wide_one():
    space = join_tasks([("a", ["cat", "dog"], PHOTO)], "seen")
    columns = {visible: criterion_for("classes", mini().set_label_space(space.with_visible(visible))).columns
               for visible in ("seen", "task", "union")}  # fmt: skip
    assert columns == {"seen": LANES, "task": LANES, "union": 0}


def test_smoothing_with_weights_and_targets_that_do_not_compete_or_count():
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    narrow, wide = torch.tensor([[1.0, 0.5], [2.0, 0.0], [0.3, 0.4]]), torch.full((3, 4), MASKED)
    wide[:, 1:3] = narrow
    y = torch.tensor([2, 1, -100])
    found = ClassCriterion(0.2, weight=weight)(wide, y)
    expected = nn.CrossEntropyLoss(label_smoothing=0.2, weight=weight[1:3])(narrow, torch.tensor([1, 0, -100]))
    torch.testing.assert_close(found, expected)
    assert ClassCriterion(0.2)(wide, torch.tensor([0, 1, 2])) > 1000  # a target that cannot be had is not overlooked
