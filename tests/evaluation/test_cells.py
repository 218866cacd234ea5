"""Matrices of which only some cells are measured: every figure is the one of a whole matrix, or none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from avalanche_vlm.evaluation.cells import has_diagonal, not_measured, tasks_measured
from avalanche_vlm.evaluation.survey import survey_metrics

PRETRAINED = [0.5, 0.5, 0.6]
MATRIX = [[0.9, 0.5, 0.2], [0.8, 0.9, 0.4], [0.7, 0.6, 0.9]]
WHOLE = {
    "last": (0.7 + 0.6 + 0.9) / 3,
    "avg": ((0.9 + 0.8 + 0.7) / 3 + (0.5 + 0.9 + 0.6) / 3 + (0.2 + 0.4 + 0.9) / 3) / 3,
    "transfer": (0.5 + (0.2 + 0.4) / 2) / 2,
    "forget": ((0.9 - 0.7) + (0.9 - 0.6)) / 2,
    "bwt": ((0.7 - 0.9) + (0.6 - 0.9)) / 2,
    "zsd": ((0.5 - 0.5) + (0.6 - 0.4)) / 2,
}


@pytest.mark.parametrize(
    ("chosen", "every", "has"),
    [
        ("all", 1, {"last", "avg", "transfer", "forget", "bwt", "zsd"}),
        ("seen", 1, {"last", "forget", "bwt"}),
        ("all", 2, {"last"}),
        ("seen", 2, {"last"}),
        ("last", 1, {"last"}),
        ("all", 3, {"last"}),
    ],
)
def test_figures_of_a_matrix_with_holes(chosen, every, has):
    holes = np.array(MATRIX)
    for step in (1, 2, 3):
        holes[step - 1, tasks_measured(step, 3, chosen, every) :] = math.nan
    assert not np.isnan(holes[-1]).any()
    found = survey_metrics(holes, PRETRAINED)
    for name, value in WHOLE.items():
        assert found[name] == pytest.approx(value) if name in has else math.isnan(found[name]), name
    assert has_diagonal(chosen, every) == ("bwt" in has)
    metrics = {name: None if math.isnan(value) else value for name, value in found.items()}
    rows = [PRETRAINED, *[[None if math.isnan(v) else v for v in row] for row in holes.tolist()]]
    train = {"eval_tasks": chosen, "eval_every": every}
    said = not_measured([{"matrix": rows, "metrics": metrics, "protocol": {"train": train}}])
    if len(has) == 6:
        assert said == []
    else:
        (sentence,) = said
        assert sentence.endswith(f"scores that were not measured (eval_tasks {chosen}, eval_every {every}).")
        for name, title in (("avg", "Avg"), ("forget", "Forget"), ("bwt", "BWT"), ("zsd", "ZSD"), ("last", "Last")):
            assert (title in sentence) == (name not in has)


def test_the_first_and_the_last_row_are_whole():
    for tasks in (1, 2, 7):
        for chosen in ("all", "seen", "last"):
            for every in (1, 2, 100):
                counts = [tasks_measured(step, tasks, chosen, every) for step in range(tasks + 1)]
                assert counts[0] == counts[-1] == tasks and all(
                    count in (0, step if chosen == "seen" else tasks) for step, count in enumerate(counts[1:-1], 1)
                )
    assert sum(tasks_measured(step, 1000, "last") for step in range(1001)) == 2000


def test_a_matrix_of_one_task_lacks_nothing_that_was_to_be_measured():
    metrics = dict.fromkeys(("transfer", "forget", "bwt", "zsd"))
    assert not_measured([{"matrix": [[1.0], [2.0]], "metrics": metrics, "protocol": {}}]) == []
    whole = [[1.0, 2.0]] * 3
    assert not_measured([{"matrix": whole, "metrics": metrics, "protocol": {}}, {"matrix": [], "metrics": {}}]) == []
