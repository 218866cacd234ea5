"""Published figures as data: what ZSCL's arrays come to by our metrics is what its paper prints."""

from __future__ import annotations

import numpy as np
import pytest

from avalanche_vlm.benchmarks.published.results import FIGURES_KNOWN, published_tables, tables_on
from avalanche_vlm.benchmarks.registry import get_benchmark
from avalanche_vlm.evaluation.survey import survey_metrics
from avalanche_vlm.training import recipes

TABLES = [pytest.param(of, id=of.named) for of in published_tables()]
WITH_MATRIX = [
    pytest.param(table, row, id=f"{table.table} {row.method}")
    for table in published_tables()
    for row in table.rows
    if row.matrix
]


@pytest.mark.parametrize(("table", "row"), WITH_MATRIX)
def test_our_metrics_of_a_published_matrix_are_the_published_figures(table, row):
    scores = np.array(row.matrix)
    assert scores.shape == (len(table.protocol["data.order"]),) * 2
    ours = survey_metrics(row.matrix)
    for name, value in row.figures.items():
        assert ours[name] == pytest.approx(value, abs=0.05 + 1e-6), name
    # And by hand, as its authors count: over the cells before a task's turn, and over all rows.
    before = [scores[:place, place].mean() for place in range(1, len(scores))]
    assert round(np.mean(before), 1) == row.figures["transfer"] and round(scores.mean(), 1) == row.figures["avg"]


@pytest.mark.parametrize(("table", "row"), WITH_MATRIX)
def test_published_scores_are_whole_numbers_of_test_images(table, row):
    for column, images in zip(np.array(row.matrix).T, table.protocol["data.n_test"], strict=True):
        right = column / 100 * images
        assert np.abs(right - right.round()).max() <= 0.005 / 100 * images + 1e-6  # of 10,000 and more any score is


def test_both_orders_are_permutations_of_one_benchmark():
    first, second = (of for of in tables_on("mtil") if of.arxiv == "2303.06628")
    assert sorted(first.protocol["data.order"]) == sorted(second.protocol["data.order"])
    sizes = [dict(zip(of.protocol["data.order"], of.protocol["data.n_test"], strict=True)) for of in (first, second)]
    assert sizes[0] == sizes[1] and sum(sizes[0].values()) == 97_209
    zero_shot = [of.rows[0].figures for of in (first, second)]
    assert zero_shot[0]["last"] == zero_shot[1]["last"] != zero_shot[0]["transfer"]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_names_what_there_is(table):
    declared = get_benchmark(table.protocol["benchmark"])
    own = declared.options()
    for name in table.protocol:
        group, _, option = name.partition(".")
        assert group != "data" or option in own or option in ("n_test", "n_train"), name
    assert table.paper and table.arxiv and table.read_from and table.run["benchmark"] == declared.name
    for row in table.rows:
        assert set(row.figures) <= set(FIGURES_KNOWN) and all(0 < value <= 100 for value in row.figures.values())
        assert row.recipe is None or recipes.get(row.recipe)


def test_the_logs_of_proof_are_of_the_streams_that_the_options_ask_for():
    """Step by step accuracies of the tasks after the last step, as the logs have them, and our Last of them."""
    of = {(t.protocol["benchmark"], t.protocol["data.base"]): t for t in published_tables() if t.arxiv == "2305.19270"}
    tasks = {
        ("cifar100", 0): [79.6, 72.7, 82.1, 78.2, 77.2, 75.0, 82.7, 74.4, 80.1, 89.1],
        # Its first task has 50 classes, of which the log has ten at a time, all with as many test images.
        ("cifar100", 50): [np.mean([80.8, 74.8, 83.7, 77.2, 80.0]), 76.5, 83.8, 69.8, 81.3, 89.4],
        ("aircraft", 0): [55.65, 52.1, 43.41, 57.96, 59.94, 62.99, 41.57, 48.19, 57.66, 78.61],
        ("cars", 0): [89.39, 90.25, 86.9, 82.65, 89.3, 93.46, 85.09, 90.48, 87.83, 88.4],
        ("ucf101", 0): [86.56, 95.77, 87.27, 91.16, 94.89, 85.89, 90.15, 93.08, 93.24, 87.16],
    }
    assert of.keys() == tasks.keys()
    for key, table in of.items():
        (row,) = table.rows
        assert row.recipe == "proof" and row.figures["last"] == pytest.approx(np.mean(tasks[key]), abs=0.0051)
        asked = get_benchmark(key[0]).options() | dict(option.split("=") for option in table.options)
        for name in ("base", "increment", "class_order", "prompts"):
            assert str(asked[name]) == str(table.protocol[f"data.{name}"]), name


def test_nothing_is_known_of_other_benchmarks():
    assert tables_on("picturebook-mtil") == []
