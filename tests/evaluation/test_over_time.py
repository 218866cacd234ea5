"""Figures of streams in time, against sums over indices."""

from __future__ import annotations

import numpy as np
import pytest

from avalanche_vlm.evaluation.figures import figures_of
from avalanche_vlm.evaluation.over_time import FIGURES, earlier_steps, later_steps, own_step


def entry(rows: list, steps: str | None = "time") -> dict:
    return {"result": {"protocol": {"data": {"steps": steps}}, "matrix": rows}}


def test_the_three_means_cover_the_matrix():
    scores = np.random.default_rng(0).uniform(0, 100, (4, 4))
    rows = scores.tolist()
    lower, upper = np.tril_indices(4, -1), np.triu_indices(4, 1)
    assert own_step(rows) == pytest.approx(np.diag(scores).mean())
    assert earlier_steps(rows) == pytest.approx(scores[lower].mean())
    assert later_steps(rows) == pytest.approx(scores[upper].mean())
    assert 4 * own_step(rows) + 6 * (earlier_steps(rows) + later_steps(rows)) == pytest.approx(scores.sum())


def test_the_pretrained_row_is_left_out_and_other_streams_have_no_such_figures():
    rows = [[1.0, 2.0], [80.0, 60.0], [70.0, 90.0]]
    assert [figure.value(entry(rows)) for figure in FIGURES] == [85.0, 70.0, 60.0]
    assert [figure.value(entry(rows, None)) for figure in FIGURES] == [None] * 3
    assert [figure.value({"result": {"protocol": {}, "matrix": rows}}) for figure in FIGURES] == [None] * 3
    assert {"own_step", "earlier_steps", "later_steps"} <= {figure.name for figure in figures_of([], "table")}


def test_a_missing_cell_is_no_mean():
    assert earlier_steps([[80.0, None], [None, 90.0]]) is None and own_step([[80.0, None], [None, 90.0]]) == 85.0
    assert earlier_steps([[80.0]]) is None and later_steps([]) is None
