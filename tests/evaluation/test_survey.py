"""The survey's metrics: worked examples, properties, and a second implementation written from the formulas."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.survey import avg, bwt, forget, last, survey_metrics, transfer, zsd

NAMES = ["last", "avg", "transfer", "forget", "bwt", "zsd"]
CHOICES = list(itertools.product(("best", "pretrained"), ("last", "worst")))
nan = float("nan")
quick = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def runs(draw, min_tasks=1):
    """A matrix and its pretrained row, T up to 5, zeros likely."""
    t = draw(st.integers(min_tasks, 5))
    score = st.one_of(st.just(0.0), st.floats(0, 1))
    row = st.lists(score, min_size=t, max_size=t)
    return draw(st.lists(row, min_size=t, max_size=t)), draw(row)


def naive(matrix, pretrained):
    """DESIGN section 6, literally: 1-based, p[j, i] in a dict, no numpy."""
    t = len(matrix)
    p = {(j, i): row[i - 1] for j, row in enumerate([pretrained, *matrix]) for i in range(1, t + 1)}

    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else nan

    before_last, from_second = range(1, t), range(2, t + 1)
    return {
        "last": mean(p[t, i] for i in range(1, t + 1)),
        "avg": mean(mean(p[j, i] for j in range(1, t + 1)) for i in range(1, t + 1)),
        "transfer": mean(mean(p[j, i] for j in range(1, i)) for i in from_second),
        "forget": mean(max(p[j, i] - p[t, i] for j in range(i, t)) for i in before_last),
        "bwt": mean(p[t, i] - p[i, i] for i in before_last),
        "zsd": mean(max(p[j, i] - p[i - 1, i] for j in range(i)) for i in from_second),
        ("best", "last"): mean(max(p[j, i] for j in range(i)) - p[i - 1, i] for i in from_second),
        ("pretrained", "last"): mean(p[0, i] - p[i - 1, i] for i in from_second),
        ("best", "worst"): mean(
            max(p[j, i] for j in range(i)) - min(p[j, i] for j in range(i + 1)) for i in from_second
        ),
        ("pretrained", "worst"): mean(p[0, i] - min(p[j, i] for j in range(i + 1)) for i in from_second),
    }


def test_three_tasks_by_hand():
    pretrained = [0.5, 0.6, 0.4]
    matrix = [
        [0.9, 0.4, 0.5],
        [0.7, 0.8, 0.2],
        [0.6, 0.9, 0.7],
    ]
    metrics = survey_metrics(matrix, pretrained)
    assert list(metrics) == NAMES
    assert all(type(value) is float for value in metrics.values())
    # last: (0.6 + 0.9 + 0.7) / 3
    # avg: columns 2.2 / 3, 2.1 / 3, 1.4 / 3, their mean 5.7 / 9
    # transfer: task 2: 0.4; task 3: (0.5 + 0.2) / 2 = 0.35; their mean 0.375
    # forget: task 1: max(0.9, 0.7) - 0.6 = 0.3; task 2: 0.8 - 0.9 = -0.1; their mean 0.1
    # bwt: task 1: 0.6 - 0.9 = -0.3; task 2: 0.9 - 0.8 = 0.1; their mean -0.1
    # zsd: task 2: max(0.6, 0.4) - 0.4 = 0.2; task 3: max(0.4, 0.5, 0.2) - 0.2 = 0.3; their mean 0.25
    expected = dict(zip(NAMES, [2.2 / 3, 5.7 / 9, 0.375, 0.1, -0.1, 0.25], strict=True))
    assert metrics == pytest.approx(expected)
    # task 2: 0.6 - 0.4 = 0.2; task 3: 0.4 - 0.2 = 0.2
    assert zsd(matrix, pretrained, "pretrained", "last") == pytest.approx(0.2)
    # task 2: 0.6 - min(0.6, 0.4, 0.8) = 0.2; task 3: 0.4 - min(0.4, 0.5, 0.2, 0.7) = 0.2
    assert zsd(matrix, pretrained, "pretrained", "worst") == pytest.approx(0.2)
    # task 2: 0.6 - 0.4 = 0.2; task 3: 0.5 - 0.2 = 0.3
    assert zsd(matrix, pretrained, "best", "worst") == pytest.approx(0.25)


def test_worst_zero_shot_score_includes_the_task_s_own_training():
    # Training on task 2 itself breaks it: min over j=0..2 is p[2][2] = 0.1, so 0.5 - 0.1; "last" sees 0.5 - 0.5.
    matrix = [[0.9, 0.5], [0.9, 0.1]]
    assert zsd(matrix, [0.5, 0.5], final="worst") == pytest.approx(0.4)
    assert zsd(matrix, [0.5, 0.5], final="last") == 0


def test_two_tasks_by_hand():
    # last (0.5 + 1) / 2; avg (0.75 + 0.5) / 2; transfer 0; forget 1 - 0.5; bwt 0.5 - 1; zsd max(0.25, 0) - 0
    metrics = survey_metrics([[1.0, 0.0], [0.5, 1.0]], [0.0, 0.25])
    assert metrics == {"last": 0.75, "avg": 0.625, "transfer": 0, "forget": 0.5, "bwt": -0.5, "zsd": 0.25}


def test_forget_is_negative_when_the_last_model_is_the_best():
    # 0.25 - 0.75
    assert forget([[0.25, 0.0], [0.75, 0.5]]) == -0.5
    assert bwt([[0.25, 0.0], [0.75, 0.5]]) == 0.5


def test_zero_is_a_score():
    # Everything collapses to 0 after task 2: forget 1 - 0, bwt 0 - 1, zsd 1 - 1. Nothing is skipped or NaN.
    metrics = survey_metrics([[1.0, 1.0], [0.0, 0.0]], [1.0, 1.0])
    assert metrics == {"last": 0, "avg": 0.5, "transfer": 1, "forget": 1, "bwt": -1, "zsd": 0}
    assert survey_metrics([[0, 0], [0, 0]], [0, 0]) == dict.fromkeys(NAMES, 0)


def test_one_task_has_only_last_and_avg():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = survey_metrics([[0.5]], [0.25])
        others = [zsd([[0.5]], [0.25], *choice) for choice in CHOICES]
    assert metrics == pytest.approx({"last": 0.5, "avg": 0.5} | dict.fromkeys(NAMES[2:], nan), nan_ok=True)
    assert all(map(math.isnan, others))


def test_zsd_needs_the_pretrained_row_and_nothing_else_does():
    matrix = [[1.0, 0.0], [0.5, 1.0]]
    without, with_row = survey_metrics(matrix), survey_metrics(matrix, [0.0, 0.25])
    assert math.isnan(without.pop("zsd"))
    assert without.items() <= with_row.items()
    assert all(math.isnan(zsd(matrix, None, *choice)) for choice in CHOICES)


# For T = 3: which cells (row of the matrix from 1 = after task j, 0 = pretrained; task i) each metric needs.
UPPER = {(1, 2), (1, 3), (2, 3)}
ROW0 = {(0, 2), (0, 3)}
NEEDED = {
    last: {(3, 1), (3, 2), (3, 3)},
    avg: {(j, i) for j in (1, 2, 3) for i in (1, 2, 3)},
    transfer: UPPER,
    forget: {(1, 1), (2, 1), (3, 1), (2, 2), (3, 2)},
    bwt: {(1, 1), (2, 2), (3, 1), (3, 2)},
    ("best", "last"): ROW0 | UPPER,
    ("best", "worst"): ROW0 | UPPER | {(2, 2), (3, 3)},
    ("pretrained", "last"): ROW0 | {(1, 2), (2, 3)},
    ("pretrained", "worst"): ROW0 | UPPER | {(2, 2), (3, 3)},
}


@pytest.mark.parametrize("metric", NEEDED, ids=lambda m: getattr(m, "__name__", m))
def test_a_missing_cell_matters_only_where_it_is_needed(metric):
    def value(rows):
        return metric(rows[1:]) if callable(metric) else zsd(rows[1:], rows[0], *metric)

    rows = np.random.default_rng(0).random((4, 3))
    whole = value(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for j, i in itertools.product(range(4), (1, 2, 3)):
            holed = rows.copy()
            holed[j, i - 1] = nan
            if (j, i) in NEEDED[metric]:
                assert math.isnan(value(holed)), (j, i)
            else:
                assert value(holed) == whole, (j, i)


def test_none_is_missing_and_any_array_like_will_do():
    rows = [[1, 0], [None, 1]]  # as json.load gives it
    metrics = survey_metrics(rows, (0, 0.25))
    assert metrics["zsd"] == 0.25
    assert metrics["transfer"] == 0
    assert all(math.isnan(metrics[name]) for name in ("last", "avg", "forget", "bwt"))
    assert survey_metrics(np.eye(2, dtype=np.float32), np.zeros(2, int))["avg"] == 0.5


def test_the_input_is_left_alone():
    matrix, pretrained = np.random.default_rng(0).random((3, 3)), np.ones(3)
    copies = matrix.copy(), pretrained.copy()
    survey_metrics(matrix, pretrained)
    assert np.array_equal(matrix, copies[0])
    assert np.array_equal(pretrained, copies[1])


@pytest.mark.parametrize(
    ("matrix", "pretrained", "message"),
    [
        ([], None, "empty"),
        ([[]], None, "empty"),
        (0.5, None, "square.*single number"),
        ([0.5, 0.5], None, "square.*shape is 2 "),
        ([[0.5, 0.5]], None, "square.*1 x 2"),
        (np.zeros((3, 2)), None, r"square.*3 x 2 \(the pretrained model's row is given apart\)"),
        (np.zeros((2, 2, 2)), None, "square.*2 x 2 x 2"),
        ([[0.5], [0.5, 0.5]], None, "performance matrix must be numbers in rows of equal length"),
        ([["good", "bad"], ["bad", "good"]], None, "performance matrix must be numbers"),
        ([[0.5]], [], "row of 1, .*shape is 0$"),
        ([[0.5]], [0.5, 0.5], "row of 1, .*shape is 2$"),
        ([[0.5]], [[0.5]], "row of 1, .*shape is 1 x 1$"),
        ([[0.5]], 0.5, "row of 1, .*single number"),
        ([[0.5]], "best", "pretrained scores must be numbers"),
    ],
)
def test_wrong_shapes_are_named(matrix, pretrained, message):
    with pytest.raises(InputError, match=message):
        survey_metrics(matrix, pretrained)


@pytest.mark.parametrize("choice", [{"reference": "first"}, {"final": "first"}])
def test_unknown_definitions_are_named(choice):
    with pytest.raises(InputError, match="'first'"):
        zsd([[0.5]], [0.5], **choice)


@quick
@given(runs())
def test_agrees_with_the_formulas(run):
    expected = naive(*run)
    metrics = survey_metrics(*run) | {choice: zsd(*run, *choice) for choice in CHOICES}
    assert metrics == pytest.approx(expected, abs=1e-12, nan_ok=True)


@quick
@given(st.integers(2, 5), st.floats(0, 1))
def test_a_model_that_never_changes_loses_nothing(t, score):
    matrix, pretrained = np.full((t, t), score), np.full(t, score)
    metrics = survey_metrics(matrix, pretrained)
    assert metrics["forget"] == metrics["bwt"] == metrics["zsd"] == 0
    assert [metrics[name] for name in ("last", "avg", "transfer")] == pytest.approx([score] * 3)
    assert all(zsd(matrix, pretrained, *choice) == 0 for choice in CHOICES)


@quick
@given(runs(min_tasks=2), st.floats(-1, 1))
def test_a_shift_of_all_scores_moves_levels_and_not_differences(run, c):
    matrix, pretrained = map(np.array, run)
    before, after = survey_metrics(matrix, pretrained), survey_metrics(matrix + c, pretrained + c)
    for name in NAMES:
        assert after[name] == pytest.approx(before[name] + (c if name in ("last", "avg", "transfer") else 0), abs=1e-12)


@quick
@given(runs(min_tasks=2), st.floats(0, 100))
def test_all_metrics_have_the_scale_of_the_scores(run, c):
    matrix, pretrained = map(np.array, run)
    before, after = survey_metrics(matrix, pretrained), survey_metrics(c * matrix, c * pretrained)
    assert after == pytest.approx({name: c * value for name, value in before.items()}, abs=1e-10)


@quick
@given(runs(min_tasks=2))
def test_bounds(run):
    matrix, pretrained = run
    metrics = survey_metrics(matrix, pretrained)
    values = {choice: zsd(matrix, pretrained, *choice) for choice in CHOICES}
    assert metrics["forget"] >= -metrics["bwt"] - 1e-12
    assert values["best", "last"] == metrics["zsd"] >= 0
    assert values["pretrained", "worst"] >= 0
    assert values["best", "worst"] >= max(values.values()) - 1e-12
    assert values["pretrained", "last"] <= min(values.values()) + 1e-12
