"""Published figures stand beside results of the same protocol, and beside no others."""

from __future__ import annotations

import copy
import re

import pytest

from avalanche_vlm.benchmarks.published.results import published_tables, tables_on
from avalanche_vlm.evaluation.beside import published_beside


def result(table: int = 0) -> dict:
    """A result on MTIL that says what its table says."""
    protocol: dict = {"recipe": "zscl", "seed": 0, "data": {"root": "/somewhere"}, "train": {"lr": 1.0}}
    zscl = [of for of in tables_on("mtil") if of.arxiv == "2303.06628"]
    for name, value in zscl[table].protocol.items():
        group, _, field = name.rpartition(".")
        (protocol[group] if group else protocol)[field] = copy.deepcopy(value)
    return {"protocol": protocol}


@pytest.mark.parametrize(("table", "last"), [(0, 83.6), (1, 83.4)])
def test_figures_of_the_same_protocol_are_shown_with_their_source(table, last):
    found = published_beside([result(table)])
    rows = {row.method: row.figures["last"] for row in found.rows}
    assert rows["ZSCL"] == last and rows.get("MoE-Adapters") == (None if table else 85.0)
    assert ("arXiv 2403.11549" in found.sentences[0]) == (not table)
    assert "arXiv 2303.06628" in found.sentences[0] and "weights is not known" in found.sentences[0]
    assert any("SUN397" in sentence for sentence in found.sentences)


def test_how_a_recipe_trains_is_no_part_of_the_protocol():
    other = result()
    other["protocol"] |= {"recipe": "lora", "train": {"lr": 2.0}, "device": "cuda"}
    assert published_beside([other]).rows


@pytest.mark.parametrize(
    ("where", "value", "sentence"),
    [
        (("data", "splits"), "coop", 'table .*of .* has another protocol, data.splits is "zscl" there and "coop" here'),
        (("data", "prompts"), "first", 'data.prompts is "all" there and "first" here'),
        (("data", "shots"), 5, "data.shots is null there and 5 here"),
        (("label_space",), "union", 'label_space is "task" there and "union" here'),
        (("task_id_at_test",), True, "task_id_at_test is false there and true here"),
        (("model",), "tiny", 'model is "ViT-B-16" there and "tiny" here'),
        (("data", "n_test"), [3333, 4] + [1] * 9, r"data.n_test\[1\] is 1736 there and 4 here"),
        (("data", "order"), ["Food"], "data.order has 11 entries there and 1 here"),
    ],
)
def test_another_protocol_is_refused_by_the_field_that_differs(where, value, sentence):
    other = result()
    inner = other["protocol"]
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    found = published_beside([other])
    assert found.rows == ()
    (said,) = found.sentences
    assert said.startswith("Published figures are not shown: ")
    assert re.search(sentence, said)


@pytest.mark.parametrize("table", published_tables(), ids=lambda table: table.named)
def test_no_table_stands_beside_a_result_that_differs_in_one_field(table):
    def shown(changed: str | None) -> tuple:
        protocol: dict = {"recipe": "zscl", "data": {}}
        for name, value in table.protocol.items():
            group, _, field = name.rpartition(".")
            (protocol[group] if group else protocol)[field] = "another" if name == changed else copy.deepcopy(value)
        return published_beside([{"protocol": protocol}]).rows

    assert set(map(id, table.rows)) <= set(map(id, shown(None)))
    assert [name for name in table.protocol if shown(name)] == []


def test_models_that_started_from_random_weights_have_nothing_beside_them():
    other = result()
    other["protocol"]["weights"] = {"content": "0" * 64, "seed": 3}
    found = published_beside([other])
    assert found.rows == () and found.sentences == (
        "Published figures are not shown: these models started from random weights.",
    )


def test_nothing_is_said_of_what_nobody_published():
    assert (
        published_beside([]).sentences
        == published_beside([{"protocol": {"benchmark": "picturebook-mtil"}}]).sentences
        == ()
    )


@pytest.mark.parametrize(("increment", "class_order", "shown"), [(5, "continual-clip", True), (5, "rapf", False)])
def test_a_class_incremental_table_is_found_by_its_steps_and_its_order(increment, class_order, shown):
    data = {"base": 0, "increment": increment, "class_order": class_order, "prompts": "continual-clip", "shots": None}
    data["n_test"] = [500] * 20
    protocol = {"benchmark": "cifar100", "data": data, "label_space": "seen", "model": "ViT-B-16"}
    found = published_beside([{"protocol": {**protocol, "task_id_at_test": False}}])
    assert [(row.method, row.figures) for row in found.rows] == ([("Continual-CLIP", {"last": 66.72})] if shown else [])
    said = "20 steps, of Thengane et al. 2022" if shown else 'class_order is "continual-clip" there and "rapf" here'
    assert said in found.sentences[0]
