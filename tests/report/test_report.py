"""Tables and plots of results made by hand."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from avalanche_vlm.report import plots, table


def entry(recipe: str = "lora", seed: int = 0, last: float = 80.0, zsd: float | None = 1.5) -> dict:
    matrix = [[50.0, 40.0], [70.0, None], [60.0, last]]
    return {
        "result": {
            "protocol": {
                "recipe": recipe,
                "seed": seed,
                "benchmark": "b",
                "label_space": "task",
                "model": "tiny",
                "recipe_options": {},
                "train": {},
            },
            "tasks": ["first", "second"],
            "matrix": matrix,
            "held_out": {"captions R@1": [99.0, 90.0, 88.0 + seed]},
            "metrics": {"last": last, "avg": 60.0, "transfer": 39.0, "forget": 10.0, "bwt": -10.0, "zsd": zsd},
            "costs": {"stored_bytes": 1536, "trainable_parameters": 73728},
        },
        "timing": {"total_seconds": 12.3},
    }


def test_a_row_holds_the_figures_and_the_loss_of_the_held_out_score():
    figures = table.row(entry(zsd=None))
    assert figures["held_out_r1"] == 88.0 and figures["held_out_loss"] == 11.0
    assert math.isnan(figures["zsd"]) and figures["seconds"] == 12.3


def test_csv_has_a_line_per_experiment_and_blanks_for_missing():
    lines = list(csv.DictReader(io.StringIO(table.as_csv([entry(), entry(seed=1, zsd=None)]))))
    assert [line["zsd"] for line in lines] == ["1.5", ""] and lines[1]["seed"] == "1"


def test_the_summary_is_the_mean_and_the_sample_deviation_over_seeds():
    figures = table.summary([entry(last=80.0), entry(seed=1, last=84.0), entry("zscl")])
    last = figures["recipes"]["lora"]["last"]
    assert last["mean"] == 82.0 and last["n"] == 2 and last["std"] == pytest.approx(np.std([80, 84], ddof=1))
    assert figures["recipes"]["zscl"]["last"]["std"] is None
    assert "seed" not in figures["protocol"] and figures["protocol"]["label_space"] == "task"


def test_the_printed_table_is_not_cut(capsys):
    table.print_table([entry(last=80.0), entry(seed=1, last=84.0), entry("replay", zsd=None)])
    out = capsys.readouterr().out
    assert "82.0 ±2.8" in out and "1.5 KiB" in out and "73,728" in out and "seeds 0, 1" in out
    assert "…" not in out and " - " in out
    table.print_matrix(entry()["result"])
    out = capsys.readouterr().out
    assert "(pretrained)" in out and "50.0" in out and " - " in out


def test_heat_maps_show_the_mean_over_seeds_and_leave_missing_cells_blank():
    figure = plots.matrices([entry(last=80.0)["result"], entry(seed=1, last=84.0)["result"], entry("zscl")["result"]])
    lora, zscl = figure.axes[:2]
    assert [lora.get_title(), zscl.get_title()] == ["lora", "zscl"]
    assert sorted(t.get_text() for t in lora.texts) == ["40", "50", "60", "70", "82"]
    assert [t.get_text() for t in lora.get_yticklabels()] == ["pretrained", "after first", "after second"]


def test_curves_and_bars_have_one_series_per_recipe():
    results = [entry()["result"], entry(seed=1)["result"], entry("zscl", zsd=None)["result"]]
    (axis,) = plots.held_out_curves(results).axes
    assert [line.get_label() for line in axis.lines] == ["lora", "zscl"]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [99.0, 90.0, 88.5])
    assert len(axis.collections) == 1  # only lora has a band
    (axis,) = plots.metric_bars(results).axes
    assert [c.get_label() for c in axis.containers if hasattr(c, "patches")] == ["lora", "zscl"]
    empty = {**results[0], "held_out": {}}
    assert not plots.held_out_curves([empty]).axes[0].lines
