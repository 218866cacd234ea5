"""Declarations of figures, and the list that tables and reports are made from."""

from __future__ import annotations

import json

import pytest

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation import figures
from avalanche_vlm.evaluation.declaration import EVERYWHERE, Figure
from avalanche_vlm.evaluation.survey import survey_metrics
from avalanche_vlm.report import table
from avalanche_vlm.report.rounding import ROUNDING, show


def entry(**metrics) -> dict:
    protocol = {"recipe": "lora", "seed": 0}
    return {"result": {"protocol": protocol, "metrics": metrics, "costs": {}}, "timing": {}}


def test_what_the_survey_computes_is_what_it_declares():
    computed = list(survey_metrics([[1.0, 0.5], [0.5, 1.0]], [0.2, 0.2]))
    assert [figure.name for figure in figures.list_figures() if figure.name in computed] == computed


def test_every_figure_is_told_apart_and_can_be_shown():
    known = figures.list_figures()
    assert len({figure.name for figure in known}) == len({figure.title for figure in known}) == len(known)
    for figure in known:
        assert figure.description.endswith(".") and figure.shown
        assert figure.unit in ("flag", "words") or show(1.0, figure.unit)
    assert {figure.unit for figure in known} <= {*ROUNDING, "flag", "words"}


def test_a_registered_figure_joins_the_table_and_a_name_is_taken_once(monkeypatch):
    monkeypatch.setattr(figures.FIGURES, "_registered", dict(figures.FIGURES._known))
    spread = Figure(
        *("spread", "Spread", "points", None, "Last less Avg."),
        lambda entry: entry["result"]["metrics"]["last"] - entry["result"]["metrics"]["avg"],
    )
    assert figures.register_figure(spread) is spread
    assert table.row(entry(last=80.0, avg=60.0))["spread"] == 20.0
    assert table.as_csv([entry(last=80.0, avg=60.0)]).splitlines()[0].endswith(",seconds,spread")
    with pytest.raises(InputError, match=r"a figure called 'spread' is registered already$"):
        figures.register_figure(spread)
    with pytest.raises(InputError, match="a figure called 'last' is registered already"):
        figures.register_figure(Figure("last", "Last", "percent", True, "Another."))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": "two words"}, "'two words' cannot name a figure"),
        ({"name": "seed"}, "'seed' cannot name a figure"),
        ({"unit": "miles"}, "the unit of steadiness must be one of percent, .*, not 'miles'"),
        ({"shown": frozenset({"moon"})}, "steadiness can be shown in csv, .*, not in moon"),
        ({"unit": "flag"}, "steadiness is no number"),
    ],
)
def test_a_declaration_that_cannot_be_shown_is_refused(changed, sentence):
    fields = {"name": "steadiness", "title": "S", "unit": "percent", "higher_is_better": True, "description": "Words."}
    with pytest.raises(InputError, match=sentence):
        Figure(**{**fields, **changed})


def test_a_declaration_survives_a_file():
    figure = Figure("a", "A", "cosine", None, "Words.", shown=EVERYWHERE | {"plot"})
    assert Figure.from_json("a", json.loads(json.dumps(figure.as_json()))) == figure


@pytest.mark.parametrize("content", [None, [], {}, {"title": "A"}, {"unit": "miles"}, "words"])
def test_what_other_hands_wrote_in_the_place_of_a_declaration_is_left_out(content):
    assert Figure.from_json("a", content) is None
    found = entry(a=1.0)
    found["result"]["figures"] = {"a": content}
    assert "a" not in table.row(found)
    found["result"]["figures"] = content
    assert "a" not in table.row(found)


@pytest.mark.parametrize("value", [None, "3", True, float("nan"), float("inf"), [1]])
def test_a_value_of_another_kind_is_missing(value):
    last = figures.list_figures()[0]
    assert last.value(entry(last=value)) is None and last.value({}) is None
