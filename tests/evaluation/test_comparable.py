"""Which results may share a table or a mean."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.comparable import PLACES, apart, averaged_apart, check_one_table, difference
from avalanche_vlm.evaluation.variants import row_names


def result(recipe: str = "lora", seed: int = 0, **changed: Any) -> dict[str, Any]:
    """A result whose data are drawn from the training's seed, with facts changed by their dotted names."""
    protocol: dict[str, Any] = {
        "benchmark": "b",
        "data": {
            "seed": seed,
            "n_train": 8,
            "path": "here",
            "content": {name: f"{name} {seed}" for name in ("train", "test", "all", "held_out")},
        },
        "label_space": "task",
        "weights": {"content": "w"},
        "recipe": recipe,
        "recipe_options": {"rank": 4} if recipe == "lora" else {},
        "train": {"lr": 1e-3 if recipe == "lora" else 1e-5},
        "resources": {"reference": {"pairs": 4, "content": f"r {seed}"}} if recipe == "zscl" else {},
        "seed": seed,
        "versions": {"torch": "2"},
    }
    for name, value in changed.items():
        *groups, last = name.split("__")
        part = protocol
        for group in groups:
            part = part[group]
        part[last] = value
    return {"protocol": protocol, "tasks": ["a", "b"]}


def test_recipes_and_seeds_share_a_table():
    results = [result(recipe, seed) for recipe in ("lora", "zscl", "fine-tune") for seed in (0, 1, 2)]
    check_one_table(results)
    check_one_table(results[:1])
    # One world for all seeds of the training is as good as one for each, and where data lie is of no account.
    check_one_table([result(seed=s, data=result()["protocol"]["data"] | {"path": str(s)}) for s in (0, 1, 2)])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"label_space": "union"}, 'label_space is "task" in one and "union" in another'),
        ({"data__n_train": 640}, "data.n_train is 8 in one and 640 in another"),
        ({"data__content": {}}, 'data.content.train is "train 0" in one and "not said" in another'),
        ({"versions__torch": "3"}, "versions.torch is"),
        ({"weights__content": "v"}, "weights.content is"),
        ({"data__seed": 7}, "data.seed is 0 in one and 7 in another"),
    ],
)
def test_results_that_differ_share_none_and_the_fact_is_named(changed, named):
    with pytest.raises(InputError, match=f"do not belong in one table: {named}"):
        check_one_table([result("zscl"), result("lora", **changed)])


def test_data_that_changed_between_two_starts_are_seen_at_once_and_across_seeds():
    changed = result("zscl", data__content={**result()["protocol"]["data"]["content"], "test": "other"})
    assert apart([result(), changed]) == "data.content.test"

    # A user's own data are split by the seed and not drawn by it: all samples together are the same for every seed.
    def own(seed: int, content: str) -> dict[str, Any]:
        data = {"split_seed": seed, "content": {"train": f"train {seed}", "test": f"test {seed}", "all": content}}
        return result(seed=seed, data=data)

    assert apart([own(0, "x"), own(1, "x")]) is None
    assert apart([own(0, "x"), own(1, "y")]) == "data.content.all"

    # Classes of one data set that each seed gives to tasks in another order: other prompts in other places.
    def divided(seed: int, prompts: str) -> dict[str, Any]:
        data = {"class_order_seed": seed, "class_order": [f"{seed}"], "n_train": [seed], "content": {"all": "x"}}
        return result(seed=seed, data=data, prompts=prompts)

    assert apart([divided(0, "p"), divided(1, "q")]) is None
    assert apart([divided(0, "p"), divided(0, "q")]) == "prompts"
    # Weights of a file are one for all seeds, random ones follow the seed.
    assert apart([result(seed=0, weights__content="v"), result(seed=1)]) == "weights.content"
    drawn = [result(seed=s, weights={"seed": s, "content": f"w {s}"}) for s in (0, 1)]
    assert apart(drawn) is None


def test_a_resource_that_two_rows_use_is_the_same():
    other = {"reference": {"pairs": 4, "content": "others"}}
    assert apart([result("zscl"), result("snd", resources=other)]) == "resources.reference.content"
    assert apart([result("zscl"), result("gift", resources={"generator": {"kind": "g"}})]) is None
    assert averaged_apart([result("zscl"), result("zscl", 1, resources={})]) == "resources.reference.pairs"


def test_only_seeds_may_differ_in_a_mean():
    assert averaged_apart([result(seed=0), result(seed=1)]) is None
    assert averaged_apart([result(), result(seed=1, train={"lr": 0.1})]) == "train.lr"
    check_one_table([result(), result(seed=1, train={"lr": 0.1})])  # a row each
    assert row_names([result(), result(seed=1, train={"lr": 0.1})]) == ["lora (lr=0.001)", "lora (lr=0.1)"]
    # Two seeds on a world of their own and a third on another's: neither kind of mean.
    third = result(seed=2, data=copy.deepcopy(result(seed=1)["protocol"]["data"]))
    assert apart([result(seed=0), result(seed=1), third]) == "data.seed"


def test_a_run_counts_once():
    with pytest.raises(InputError, match="lora with seed 1 is there 2 times: a run counts once"):
        check_one_table([result(seed=0), result(seed=1), result(seed=1)])


def test_other_tasks_are_another_table():
    with pytest.raises(InputError, match=r'one table: tasks is \["a", "b"\] in one and \["a"\] in another'):
        check_one_table([result(), {**result(), "tasks": ["a"]}])


def test_a_kept_result_stands_for_what_would_be_run_only_under_equal_conditions():
    protocol = result()["protocol"]
    moved = result(data={**protocol["data"], "path": "there"})["protocol"]
    assert difference(protocol, moved) is None
    assert difference(protocol, result(seed=1)["protocol"]) == "data.seed"
    assert difference(protocol, result(train={"lr": 2})["protocol"]) == "train.lr"
    assert difference({k: v for k, v in protocol.items() if k != "weights"}, protocol) == "weights.content"


def test_results_of_earlier_versions_stand_for_what_was_so_without_a_word():
    """Neither blocks that torch compiles nor the settings of further plugins were said; all else has to be equal."""
    before = result(train={"lr": 1}, plugins=["EWCPlugin", "Watching"])["protocol"]
    now = {**before, "train": {"lr": 1, "compile": False}, "plugins": ["EWCPlugin(ewc_lambda=0.1)", "Watching"]}
    assert difference(before, now) is None and difference(now, before) is None
    assert difference(before, {**now, "train": {"lr": 1, "compile": True}}) == "train.compile"
    assert difference(now, {**now, "plugins": ["EWCPlugin(ewc_lambda=0.2)", "Watching"]}) == "plugins"
    for plugins in (["MASPlugin(x=1)", "Watching"], ["EWCPlugin(ewc_lambda=0.1)"]):
        assert difference(before, {**now, "plugins": plugins}) == "plugins"


@pytest.mark.parametrize("place", PLACES)
def test_where_anything_lies_decides_nothing(place):
    def lying(where: str) -> dict[str, Any]:
        protocol: dict[str, Any] = {"seed": 0, "prompts": "p", "data": {}, "resources": {}}
        *groups, last = place.split(".")
        part = protocol
        for group in groups:
            part = part.setdefault(group, {})
        part[last] = where
        return protocol

    assert difference(lying("here"), lying("there")) is None
    assert difference(lying("here"), {**lying("there"), "prompts": "q"}) == "prompts"
