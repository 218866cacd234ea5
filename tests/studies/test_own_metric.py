"""A metric from outside the package: one declaration, and it is in every place that shows figures."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from made import tiny as tiny_vlm

from avalanche_vlm import cli
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.accumulators import SampleColumns
from avalanche_vlm.evaluation.answers import TaskAnswers
from avalanche_vlm.evaluation.base import VLMMetric
from avalanche_vlm.evaluation.declaration import EVERYWHERE, Figure
from avalanche_vlm.evaluation.figures import list_figures
from avalanche_vlm.evaluation.results import RESULT, TIMING
from avalanche_vlm.report import plots, table
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.studies.outcome import with_figures
from avalanche_vlm.training.settings import TrainSettings

SMALL = {"n_train": 32, "n_test": 10, "order": ["sketches", "night"], "n_held_out": 20, "n_reference": 32}


def overconfidence(confidence: torch.Tensor, right: torch.Tensor) -> float:
    """How far a model is surer than it is right, in points."""
    return 100 * (confidence.double().mean() - right.double().mean()).item()


class Overconfidence(VLMMetric):
    """Overconfidence over all test samples of the last evaluation."""

    figures = (
        Figure(
            "overconfidence",
            "Overconfidence",
            "points",
            False,
            "Mean confidence less the share of right answers, over all test samples after the last task.",
            shown=EVERYWHERE | {"plot"},
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        self.answers = SampleColumns("confidence", "right")

    def before_eval(self, strategy):
        self.answers.reset()

    def after_eval_iteration(self, strategy):
        confidence, best = strategy.mb_output.softmax(1).max(1)
        self.answers.update(confidence, best == strategy.mb_y)

    def values(self):
        return {"overconfidence": overconfidence(*self.answers.compute())}


def run(metrics, seed=0):
    torch.manual_seed(0)
    return run_experiment(
        picturebook.mtil_like(seed, **SMALL),
        "fine-tune",
        model=tiny_vlm("random"),
        settings=TrainSettings(lr=1e-3, epochs=1),
        metrics=metrics,
        seed=seed,
    )


@pytest.fixture(scope="module")
def runs():
    return [run([Overconfidence()], seed) for seed in (0, 1)], run([TaskAnswers()])


def entries(outcomes):
    return [{"result": o.result, "timing": {**o.timing, "total_seconds": 1.5}} for o in outcomes]


def test_its_figure_is_in_the_result_and_nothing_else_changes(runs):
    (with_it, _), without = runs
    result = json.loads(json.dumps(with_it.result, allow_nan=False))
    value = result["metrics"].pop("overconfidence")
    assert isinstance(value, float) and -100 <= value <= 100
    (declared,) = result.pop("figures").items()
    assert declared[0] == "overconfidence" and declared[1]["unit"] == "points" and not declared[1]["higher_is_better"]
    # A metric that declares nothing leaves no trace.
    assert result == without.result


def test_the_value_is_that_of_the_trained_model(runs):
    (with_it, _), _ = runs
    model, benchmark = with_it.strategy.model.eval(), picturebook.mtil_like(0, **SMALL)
    confidence, right = [], []
    with torch.no_grad():
        for experience in benchmark.test_stream:
            for x, y, t in torch.utils.data.DataLoader(experience.dataset.eval(), 4):
                sure, best = model(x, t).softmax(1).max(1)
                confidence += sure.tolist()
                right += (best == y).tolist()
    expected = 100 * (sum(confidence) / len(confidence) - sum(right) / len(right))
    assert with_it.result["metrics"]["overconfidence"] == pytest.approx(expected, abs=1e-3)


def test_table_csv_summary_and_bars_show_it(runs, capsys):
    found = entries(runs[0])
    values = [o.result["metrics"]["overconfidence"] for o in runs[0]]
    lines = list(csv.DictReader(io.StringIO(table.as_csv(found))))
    assert [float(line["overconfidence"]) for line in lines] == values
    assert table.row(found[0])["overconfidence"] == values[0]
    assert table.summary(found)["recipes"]["fine-tune"]["overconfidence"]["mean"] == pytest.approx(sum(values) / 2)
    table.print_table(found)
    out = capsys.readouterr().out
    assert "Overconfidence" in out and f"{sum(values) / 2:.1f} ±" in out
    panels = plots.metric_bars([entry["result"] for entry in found]).axes
    assert "Overconfidence\n(lower is better)" in [axis.get_title() for axis in panels]


def test_the_report_shows_it_as_html_markdown_and_json(runs, tmp_path):
    """From the files alone: whoever reports need not have the metric."""
    for seed, entry in enumerate(entries(runs[0])):
        for name, document in (("result", RESULT), ("timing", TIMING)):
            content = {"run": "0" * 16, "total_seconds": 9.0} if name == "timing" else {"run": "0" * 16}
            document.write(tmp_path / f"fine-tune/seed-{seed}/{name}.json", {**content, **entry[name]})
    assert cli.main(["report", str(tmp_path)]) == 0
    (group,) = json.loads((tmp_path / "report.json").read_text())["groups"]
    (column,) = [column for column in group["columns"] if column["key"] == "overconfidence"]
    assert (column["title"], column["kind"], column["better"]) == ("Overconfidence", "points", "lower")
    mean = group["recipes"][0]["figures"]["overconfidence"]["mean"]
    assert mean == pytest.approx(sum(o.result["metrics"]["overconfidence"] for o in runs[0]) / 2, abs=1e-3)
    html = (tmp_path / "report.html").read_text()
    assert "Overconfidence, points&nbsp;↓" in html
    assert f'data-path="groups.0.recipes.0.figures.overconfidence.mean" data-kind="points">{mean:.1f}<' in html
    text = (tmp_path / "report.md").read_text()
    (head,) = [line for line in text.splitlines() if line.startswith("|recipe|seeds|")]
    assert "|Overconfidence, points|" in head and f"{mean:.1f} ± " in text
    meaning = "Mean confidence less the share of right answers"
    assert meaning in html and meaning in text


def test_a_result_without_it_has_a_gap_in_the_same_table(runs):
    found = [*entries(runs[0]), *entries([runs[1]])]
    found[2]["result"] = {**found[2]["result"], "protocol": {**found[2]["result"]["protocol"], "recipe": "other"}}
    lines = list(csv.DictReader(io.StringIO(table.as_csv(found))))
    assert lines[0]["overconfidence"] and lines[2]["overconfidence"] == ""


def test_the_documented_example_measures_the_same(runs):
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)\nrun_experiment", page, re.DOTALL)
    names: dict = {}
    exec(code, names)
    (with_it, _), _ = runs
    assert run([names["Overconfidence"]()]).result["metrics"] == with_it.result["metrics"]


def test_the_ledger_measures_what_is_declared_as_its_lines(runs):
    assert set(runs[1].ledger) == {figure.name for figure in list_figures("ledger")}


def test_names_that_clash_are_refused_before_training():
    class Last(Overconfidence):
        figures = (Figure("last", "Last", "percent", True, "Not the one that every result has."),)

    with pytest.raises(InputError, match="Last declares a figure called last, which every result has"):
        run([Last()])
    with pytest.raises(InputError, match="figure called overconfidence, which Overconfidence has"):
        run([Overconfidence(), Overconfidence()])


class Odd(VLMMetric):
    """Values of all sorts, as a user's metric may give them."""

    def __init__(self, **values) -> None:
        super().__init__()
        self.given = {name: value for name, value in values.items() if value is not Odd}
        self.figures = [
            Figure(name, name, {"yes": "flag", "names": "words"}.get(name, "count"), None, "A value.", shown={"ledger"})
            for name in values
        ]

    def values(self):
        return self.given


def test_values_of_any_sort_become_json_and_never_cost_the_result():
    metric = Odd(
        a=np.float32(1.5), b=torch.tensor(2), c=float("inf"), d=float("nan"), e="three", f=10**400, g=None, h=Odd,
        i=torch.ones(2), yes=np.True_, names=["x", "y"], j=1j,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="Odd gives 'three' as e, whose unit is count: it is left out"):
        found = with_figures({"metrics": {"last": 1.0}}, [metric])["metrics"]
    assert found == {
        "last": 1.0, "a": 1.5, "b": 2.0, **dict.fromkeys("cdefghi"), "yes": True, "names": ["x", "y"], "j": None,
    }  # fmt: skip
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "facts", [{"name": None}, {"title": None}, {"description": 3}, {"higher_is_better": "up"}, {"shown": "nowhere"}]
)
def test_declarations_of_figures_that_cannot_be_meant(facts):
    with pytest.raises(InputError):
        Figure(**{"name": "a", "title": "A", "unit": "count", "higher_is_better": None, "description": "As.", **facts})


def test_one_place_may_stand_alone():
    assert Figure("a", "A", "count", None, "As.", shown="table").shown == {"table"}
