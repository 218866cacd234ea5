"""Runs that are evaluated less: what is measured is what a whole evaluation measures, and everything copes with the
holes."""

from __future__ import annotations

import csv
import io
import json

import pytest
from mini import mini
from small_runs import SIZES, read

from avalanche_vlm import cli
from avalanche_vlm.artifacts.description import read_description
from avalanche_vlm.artifacts.model_card import model_card
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.report import plots, table
from avalanche_vlm.report.page import as_html, as_markdown, content
from avalanche_vlm.studies.diagnosis import diagnose
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("narrow_tiny")

STREAM = {"order": ["sketches", "night", "faded"], "n_train": 16, "n_test": 8, "n_held_out": 12, "n_reference": 12}
PLANS = [("all", 1), ("seen", 1), ("last", 1), ("all", 2)]


def settings(tasks: str, every: int) -> TrainSettings:
    return TrainSettings(lr=1e-3, epochs=1, batch_size=16, eval_tasks=tasks, eval_every=every)


@pytest.fixture(scope="module")
def results():
    """The same training under each plan."""
    found = {}
    for plan in PLANS:
        benchmark, rows, steps = picturebook.mtil_like(0, **STREAM), [], []
        outcome = run_experiment(
            benchmark,
            "fine-tune",
            model=mini(),
            settings=settings(*plan),
            on_row=lambda step, _, to=rows: to.append(step),
            on_step=lambda step, matrix, to=steps: to.append((step, len(matrix))),
        )
        found[plan] = {"result": json.loads(json.dumps(outcome.result, allow_nan=False)), "timing": outcome.timing}
        found[plan]["rows"], found[plan]["steps"] = rows, steps
    return found


@pytest.mark.parametrize(
    ("plan", "counts", "figures"),
    [
        (("seen", 1), [3, 1, 2, 3], {"last", "forget", "bwt"}),
        (("last", 1), [3, 0, 0, 3], {"last"}),
        (("all", 2), [3, 0, 3, 3], {"last"}),
    ],
)
def test_what_is_measured_is_what_a_whole_evaluation_measures(results, plan, counts, figures):
    whole, found = results["all", 1]["result"], results[plan]["result"]
    assert not any(None in row for row in whole["matrix"])
    for row, complete, count in zip(found["matrix"], whole["matrix"], counts, strict=True):
        assert row == [*complete[:count], *[None] * (3 - count)]
    for name in ("last", "avg", "transfer", "forget", "bwt", "zsd"):
        assert found["metrics"][name] == (whole["metrics"][name] if name in figures else None)
    assert found["classes"] == whole["classes"] and found["costs"] == whole["costs"]
    for name, curve in whole["held_out"].items():
        assert found["held_out"][name] == [v if count else None for v, count in zip(curve, counts, strict=True)]
    assert results[plan]["steps"] == [(step, step + 1) for step in range(4)]
    assert results[plan]["rows"] == [step for step, count in enumerate(counts) if count]
    train = found["protocol"]["train"]
    assert (train["eval_tasks"], train["eval_every"]) == plan


@pytest.mark.parametrize("plan", PLANS[1:])
def test_everything_that_shows_a_matrix_copes_with_holes(results, plan, capsys):
    entry = {key: results[plan][key] for key in ("result", "timing")}
    result = entry["result"]
    table.print_matrix(result)
    table.print_table([entry])
    out = capsys.readouterr().out
    assert " - " in out and "Last" in out and "Avg" not in out and "nan" not in out.lower()
    (row,) = csv.DictReader(io.StringIO(table.as_csv([entry])))
    assert row["avg"] == "" and float(row["last"]) == result["metrics"]["last"]
    assert table.summary([entry])["recipes"]["fine-tune"]["avg"]["mean"] is None
    for draw in (plots.matrices, plots.held_out_curves, plots.metric_bars):
        draw([result]).savefig(io.BytesIO(), dpi=40)
    page = content([entry])
    sentence = f"not measured (eval_tasks {plan[0]}, eval_every {plan[1]})."
    for text in (as_html(page), as_markdown(page), json.dumps(page, allow_nan=False)):
        assert ">nan<" not in text.lower() and "| nan" not in text.lower()
    assert sentence in page["answer"]["sentences"][-1].replace("\\_", "_")
    (line,) = plots.held_out_curves([result]).axes[0].lines
    assert len(line.get_xdata()) == sum(v is not None for v in result["held_out"]["captions R@1"])


def test_results_that_were_evaluated_otherwise_share_no_table(results):
    entries = [results[plan] for plan in (("all", 1), ("seen", 1))]
    with pytest.raises(InputError, match=r'train\.eval_tasks is "all" in one and "seen" in another'):
        table.as_csv([{key: entry[key] for key in ("result", "timing")} for entry in entries])
    groups = content(entries)["groups"]
    assert [group["differs"] for group in groups] == [
        [{"name": "train.eval_tasks", "value": value}] for value in ("all", "seen")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "lost", "attributed"), [(("seen", 1), True, True), (("last", 1), False, False)])
def test_a_diagnosis_has_no_loss_of_what_was_not_measured(results, plan, lost, attributed):
    found, outcome = diagnose(picturebook.mtil_like(0, **STREAM), "fine-tune", model=mini(), settings=settings(*plan))
    assert outcome.result["matrix"] == results[plan]["result"]["matrix"]
    assert (found["exposures"]["interference"]["points"] is not None) == lost
    assert any("tasks" in of["score"] for of in found["attribution"]) == attributed
    assert found["exposures"]["drift"]["points"] is not None and found["exposures"]["erosion"]["points"] is not None
    assert "not measured (eval_tasks" in found["remarks"][-1]


def test_on_the_command_line_other_cells_are_another_experiment(tmp_path, capsys):
    words = ["run", "--out", str(tmp_path), "--recipe", "fine-tune", "--epochs", "1", "--order", "sketches,night,faded"]
    words += [*SIZES.split(), "--device", "cpu"]
    assert cli.main([*words, "--eval", "seen", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "Avg, Transfer and ZSD have no value: they need scores that were not measured (eval_tasks seen" in out
    result = read(tmp_path / "result.json")
    assert [row.count(None) for row in result["matrix"]] == [0, 2, 1, 0]
    assert cli.main([*words, "--eval", "seen", "--quiet"]) == 0
    for more, said in (
        (["--eval", "last"], "a result with train.eval_tasks = 'seen', not 'last'"),
        (["--eval", "seen", "--eval-every", "2"], "a result with train.eval_every = 1, not 2"),
    ):
        assert cli.main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path)]) == 0 and "not measured (eval_tasks seen" in capsys.readouterr().out
    card = model_card(read_description(tmp_path / "model"))
    assert "| after sketches | " in card and "On what no task trained" in card and "zero-shot degradation" not in card
