"""Tables and plots of results made by hand."""

from __future__ import annotations

import csv
import io
import math
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from avalanche_vlm.benchmarks.published.results import tables_on
from avalanche_vlm.errors import InputError
from avalanche_vlm.report import lettering, plots, table
from avalanche_vlm.report.page import as_html, as_markdown, content


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


def test_published_figures_stand_below_those_of_the_same_protocol(capsys):
    published = tables_on("mtil")[0]
    ours = entry("zscl")
    protocol = ours["result"]["protocol"] = {**ours["result"]["protocol"], "data": {}}
    for name, value in published.protocol.items():
        group, _, field = name.rpartition(".")
        (protocol[group] if group else protocol)[field] = value
    table.print_table([ours])
    lines = capsys.readouterr().out.splitlines()
    (own,) = (line for line in lines if "zscl " in line)
    (theirs,) = (line for line in lines if "ZSCL (published)" in line)
    assert [word for word in own.split() if word in ("80.0", "60.0", "39.0")] == ["80.0", "60.0", "39.0"]
    assert [word for word in theirs.split() if word[0].isdigit()] == ["83.6", "75.4", "68.1"]
    assert not any("published" in line for line in table.as_csv([ours]).splitlines())
    page = content([ours])
    rows = page["groups"][0]["published"]["rows"]
    assert rows[-1] == {"name": "ZSCL (published)", "figures": {"transfer": 68.1, "avg": 75.4, "last": 83.6}}
    line = next(line for line in reversed(as_markdown(page).splitlines()) if "83.6" in line)
    assert "ZSCL" in line and "published" in line and "arXiv 2303" in as_markdown(page)
    assert '<th scope="row">ZSCL (published)</th>' in as_html(page)
    last, transfer, zsd = plots.metric_bars([ours["result"]]).axes
    names = [label.get_text() for label in last.get_yticklabels()]
    assert names[0] == "zscl" and names[-1] == "ZSCL (published)" and len(names) == 1 + len(rows)
    numbers = [[text.get_text() for text in axis.texts] for axis in (last, transfer, zsd)]
    assert [of[0] for of in numbers] == ["80.0", "39.0", "1.5"] and [of[-1] for of in numbers] == ["83.6", "68.1", ""]
    assert last.patches[0].get_fill() and last.patches[-1].get_width() == 83.6
    assert last.patches[-1].get_facecolor()[3] == 0  # an outline: nobody here measured it
    protocol["data"]["splits"] = "coop"
    page = content([ours])
    assert "has another protocol" in as_markdown(page) and not page["groups"][0]["published"]["rows"]


def test_csv_has_a_line_per_experiment_and_blanks_for_missing():
    lines = list(csv.DictReader(io.StringIO(table.as_csv([entry(), entry(seed=1, zsd=None)]))))
    assert [line["zsd"] for line in lines] == ["1.5", ""] and lines[1]["seed"] == "1"


def test_the_summary_is_the_mean_and_the_sample_deviation_over_seeds():
    figures = table.summary([entry(last=80.0), entry(seed=1, last=84.0), entry("zscl")])
    last = figures["recipes"]["lora"]["last"]
    assert last["mean"] == 82.0 and last["n"] == 2 and last["std"] == pytest.approx(np.std([80, 84], ddof=1))
    assert figures["recipes"]["zscl"]["last"]["std"] is None
    assert "seed" not in figures["protocol"] and figures["protocol"]["label_space"] == "task"


@pytest.mark.parametrize(
    "shown",
    [
        table.summary,
        table.print_table,
        table.as_csv,
        lambda entries: plots.matrices([e["result"] for e in entries]),
        lambda entries: plots.held_out_curves([e["result"] for e in entries]),
        lambda entries: plots.metric_bars([e["result"] for e in entries]),
    ],
)
def test_results_of_different_protocols_are_never_averaged_nor_put_side_by_side(shown):
    among_few, among_all = entry(last=90.0), entry(seed=1, last=10.0)
    among_all["result"]["protocol"]["label_space"] = "union"
    for results in ([among_few, among_all], [entry("zscl"), among_all]):
        with pytest.raises(InputError, match='one table: label_space is "task" in one and "union" in another'):
            shown(results)
    faster = entry(seed=1)
    faster["result"]["protocol"]["train"] = {"lr": 0.1}
    shown([entry(), faster])
    shown([entry("zscl"), faster])
    rows = table.summary([entry(last=90.0), faster])["recipes"]
    assert len(rows) == 2 and all(row["last"]["n"] == 1 for row in rows.values())


def test_the_table_says_which_seeds_a_recipe_has_where_some_failed(capsys):
    table.print_table([entry(), entry(seed=1), entry("zscl", seed=1)])
    out = capsys.readouterr().out
    assert "zscl (seed 1)" in out and "lora (" not in out and "seeds 0, 1" in out


def test_pairs_have_no_label_space_in_the_title(capsys):
    pairs = entry()
    pairs["result"]["protocol"]["label_space"] = None
    table.print_table([pairs])
    assert "label space" not in capsys.readouterr().out
    pairs["result"]["protocol"]["label_space"] = "seen"
    table.print_table([pairs])
    assert "label space seen" in capsys.readouterr().out


def test_the_printed_table_is_not_cut(capsys):
    table.print_table([entry(last=80.0), entry(seed=1, last=84.0), entry("replay", zsd=None)])
    out = capsys.readouterr().out
    assert "82.0 ±2.8" in out and "1.5 KiB" in out and "73,728" in out and "seeds 0, 1" in out
    assert "…" not in out and " - " in out
    table.print_matrix(entry()["result"])
    out = capsys.readouterr().out
    assert "(pretrained)" in out and "50.0" in out and " - " in out


def test_the_matrix_of_a_long_stream_is_printed_by_its_ends(capsys):
    scores = np.arange(1001 * 1000).reshape(1001, 1000) % 1000 / 10
    table.print_matrix({"tasks": [f"task {i}" for i in range(1, 1001)], "matrix": scores.tolist()})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 25 and max(map(len, lines)) <= 200 and "result.json has the whole matrix" in lines[-1]
    assert sum("more ..." in line for line in lines) == 2 and "... 988 more ..." in lines[2]
    first, last = (next(line for line in lines if name in line) for name in ("(pretrained)", "│ task 1000 "))
    for line, row in ((first, scores[0]), (last, scores[1000])):
        cells = [cell.strip() for cell in line.strip("│").split("│")][1:]
        assert cells == [*(f"{v:.1f}" for v in row[:6]), "", *(f"{v:.1f}" for v in row[-6:])]


def test_heat_maps_show_the_mean_over_seeds_and_leave_missing_cells_blank():
    figure = plots.matrices([entry(last=80.0)["result"], entry(seed=1, last=84.0)["result"], entry("zscl")["result"]])
    lora, zscl = figure.axes[:2]
    assert [lora.get_title(), zscl.get_title()] == ["lora", "zscl"]
    assert sorted(t.get_text() for t in lora.texts) == ["40", "50", "60", "70", "82"]
    assert [t.get_text() for t in lora.get_yticklabels()] == ["pretrained", "after first", "after second"]


def test_curves_have_one_line_per_recipe():
    results = [entry()["result"], entry(seed=1)["result"], entry("zscl", zsd=None)["result"]]
    (axis,) = plots.held_out_curves(results).axes
    assert [line.get_label() for line in axis.lines] == ["lora", "zscl"]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [99.0, 90.0, 88.5])
    assert len(axis.collections) == 1  # only lora has a band
    empty = {**results[0], "held_out": {}}
    assert not plots.held_out_curves([empty]).axes[0].lines
    curves = {"a R@1": [90.0] * 3, "a R@5": [95.0] * 3, "a R@1 image to text": [1.0] * 3, "b": [50.0, 40.0, 30.0]}
    several = plots.held_out_curves([{**results[0], "held_out": curves}]).axes
    assert [axis.get_ylabel() for axis in several] == ["held-out a R@1 (percent)", "held-out b (percent)"]
    assert several[1].lines[0].get_ydata().tolist() == curves["b"]


def test_bars_have_a_panel_per_figure_and_a_row_per_recipe():
    results = [entry(last=80.0)["result"], entry(seed=1, last=84.0)["result"], entry("zscl", zsd=None)["result"]]
    last, transfer, zsd = plots.metric_bars(results).axes
    assert last.get_title().startswith("Last") and [t.get_text() for t in last.get_yticklabels()] == ["lora", "zscl"]
    assert [bar.get_width() for bar in last.patches] == [82.0, 80.0]
    assert [t.get_text() for t in zsd.texts] == ["1.5", "n/a"]  # a missing value is said, not drawn as zero
    assert transfer.get_xlabel() == "percent" and zsd.get_xlabel() == "points"


def overlapping(texts: list) -> list[tuple[str, str]]:
    """Pairs of texts of a drawn figure whose boxes share ground."""
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text() and t.get_visible()]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[i + 1 :] if one.overlaps(other)]


@pytest.mark.parametrize("recipes", [1, 28])
def test_bars_of_any_number_of_recipes_are_readable(recipes):
    """No name and no number covers another: drawn side by side, 28 recipes' numbers were one black band."""
    results = [entry(f"a-long-name-{i}", last=50 + 0.3 * i)["result"] for i in range(recipes)]
    figure = plots.metric_bars(results)
    figure.draw_without_rendering()
    texts = [
        t for axis in figure.axes for t in [*axis.texts, *(axis.get_yticklabels() if axis is figure.axes[0] else [])]
    ]
    assert len(texts) == recipes * 4 and not overlapping(texts)


def test_28_curves_all_look_different_and_the_legend_covers_none():
    figure = plots.held_out_curves([entry(f"recipe-{i}")["result"] for i in range(28)])
    (axis,) = figure.axes
    assert len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axis.lines}) == 28
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(axis.get_window_extent())
    assert not overlapping(legend.get_texts())


def test_heat_maps_of_many_recipes_and_tasks_stay_within_what_can_be_drawn():
    assert max(plots.matrices([entry(f"recipe-{i}")["result"] for i in range(12)]).get_size_inches()) < 40
    many = {
        **entry()["result"],
        "tasks": [f"task {i}" for i in range(250)],
        "matrix": np.full((251, 250), 50.0).tolist(),
    }
    figure = plots.matrices([many])
    assert max(figure.get_size_inches()) < 40
    assert 1 < len(figure.axes[0].get_yticks()) < 250  # names no nearer to each other than lines of text


def result_with_tasks(*names: str) -> dict:
    matrix = [[50.0] * len(names)] * (len(names) + 1)
    return {
        **entry()["result"],
        "tasks": list(names),
        "matrix": matrix,
        "held_out": {"captions R@1": [90.0] * (len(names) + 1)},
    }


def drawn(figure) -> bytes:
    """The plot as a file, with every warning an error."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(buffer, format="png", dpi=50)
    return buffer.getvalue()


@pytest.fixture
def plain_font_alone(monkeypatch):
    monkeypatch.setattr(lettering, "families_installed", lambda: [lettering.PLAIN])


@pytest.mark.parametrize("draw", [plots.matrices, plots.held_out_curves])
def test_names_that_no_font_has_are_numbered_without_a_warning(plain_font_alone, draw):
    names = ("\u82b1", "birds", "\u0928\u0926\u0940")
    figure = draw([result_with_tasks(*names)])
    assert drawn(figure)[:4] == b"\x89PNG"
    shown = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert shown[-3:] == ["task 1", "birds", "task 3"]
    assert lettering.key(names).endswith("task 1 is \u82b1, task 3 is \u0928\u0926\u0940")
    assert lettering.key(["flores", "p\u00e1jaros", "\u0440\u0435\u043a\u0430"]) is None


def test_a_held_out_set_whose_letters_no_font_has_is_numbered_without_a_warning(plain_font_alone):
    result = {**result_with_tasks("birds"), "held_out": {"size": [1.0, 2.0], "\u82b1 R@1": [3.0, 4.0]}}
    figure = plots.held_out_curves([result])
    assert drawn(figure)[:4] == b"\x89PNG"
    assert [axis.get_ylabel() for axis in figure.axes] == ["held-out size (percent)", "held-out score 2 (percent)"]


def test_an_installed_font_that_has_the_letters_is_taken(tmp_path, monkeypatch):
    """A font of one glyph, made here: a name in it is drawn with it and no warning."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "flower"])
    builder.setupCharacterMap({0x82B1: "flower"})
    pen = TTGlyphPen(None)
    for move, *point in (("moveTo", 0, 0), ("lineTo", 0, 700), ("lineTo", 700, 700), ("lineTo", 700, 0)):
        getattr(pen, move)(tuple(point))
    pen.closePath()
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "flower": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "flower": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "One Flower", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "flower.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist])
    font_manager.fontManager.addfont(tmp_path / "flower.ttf")
    monkeypatch.setattr(lettering, "families_installed", lambda: [lettering.PLAIN, "One Flower"])
    lettering._regular.cache_clear()
    try:
        figure = plots.matrices([result_with_tasks("\u82b1", "birds")])
        assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["\u82b1", "birds"]
        drawn(figure)
    finally:
        lettering._regular.cache_clear()
        lettering._covered.cache_clear()


def test_a_dollar_sign_is_no_formula():
    figure = plots.matrices([result_with_tasks("$\\nonsense$", "5 $ and 6 $")])
    drawn(figure)
    assert figure.axes[0].get_xticklabels()[0].get_text() == "$\\nonsense$"


def test_long_names_are_cut_on_plots_and_stay_told_apart():
    long = "a" * 300
    names = [f"{long}1", f"{long}2", "two\nlines", "short"]
    shown = lettering.labels(names)
    assert max(map(len, shown)) <= 40 and len(set(shown)) == 4 and shown[2:] == ["two lines", "short"]
    assert all("\u2026" in label for label in shown[:2]) and lettering.key(names) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where names leave no room for the axes
        for of in (names[:3], names[:1], ["\u4efb" * 300]):
            drawn(plots.matrices([result_with_tasks(*of)]))
            drawn(plots.held_out_curves([result_with_tasks(*of)]))
