"""What the advice says, and that it compares like with like."""

from __future__ import annotations

import json

import pytest
from fakes import World

from avalanche_vlm.evaluation.chance import Guess
from avalanche_vlm.studies.advice.constraints import Constraints
from avalanche_vlm.studies.advice.document import document
from avalanche_vlm.studies.advice.halving import Halving

SHARES = (1 / 8, 1 / 2)


def advice(world: World, seconds: float = 220.0, guesses=(), **constraints) -> dict:
    halving = Halving(world.run, SHARES, Constraints(**constraints), seconds, world.clock)
    halving.run(list(world.last))
    return json.loads(json.dumps(document(halving, {"lora": {"rank": 4}}, {}, guesses)))


def test_the_baseline_is_compared_on_the_share_that_it_ran_on():
    world = World(
        {"fine-tune": 40, "replay": 45, "zscl": 50, "lora": lambda share: 60 if share < 0.5 else 70},
        facts={"lora": {"kept": -0.5}},
    )
    found = advice(world)
    assert [len(of["recipes"]) for of in found["rounds"]] == [4, 2]
    assert found["answer"]["sentence"] == (
        "Take lora --set rank=4: Last 70.0 in its pilot on 50% of the data; 72.5 expected on all of them; fine-tune "
        "came to 40.0 on 12.5%, where lora had 60.0; held-out sets -0.5 points."
    )
    assert "carried on from 50%" in found["answer"]["why"]


def test_a_round_that_was_cut_short_is_not_what_the_answer_is_about():
    slow = {"fine-tune": 40.0, "replay": 40.0, "zscl": 40.0, "lora": 40.0}
    world = World({"fine-tune": 40, "replay": 45, "zscl": 50, "lora": 60}, slow)
    found = advice(world, 42.0)
    # The second of the two that go on does not end in time: the first round decides, on the same data for all.
    assert [(of["complete"], len(of["recipes"])) for of in found["rounds"]] == [(True, 4), (False, 1)]
    assert "Last 60.0 in its pilot on 12.5% of the data; fine-tune came to 40.0;" in found["answer"]["sentence"]
    assert "on 12.5% of the data" in found["answer"]["why"] and set(found["front"]) >= {"lora"}
    (why,) = (of["because"] for of in found["not run"])
    assert "50%" in why and "times what was left of the time" in why


def test_no_recipe_is_said_to_be_none_and_not_to_be_a_lack_of_data():
    lossy = {name: {"kept": -9.0} for name in ("fine-tune", "replay")}
    found = advice(World({"fine-tune": 40, "replay": 45}, facts=lossy))
    assert found["answer"]["recipe"] is None and found["answer"]["confidence"] is None and found["plan"] == []
    assert found["answer"]["sentence"].startswith("No recipe that was tried meets the constraints")
    assert {of["recipe"] for of in found["excluded"]} == {"fine-tune", "replay"} and found["front"]


def test_who_ran_to_the_end_and_loses_too_much_in_the_mean_is_named_with_the_reason():
    world = World({"fine-tune": 40, "zscl": 70, "lora": 60}, facts={"zscl": {"kept": -2.5}})
    found = advice(world)
    why = {of["recipe"]: of["because"] for of in found["excluded"]}
    assert found["answer"]["recipe"] == "lora" and "the samples do not exclude" in why["zscl"]


@pytest.mark.parametrize(("last", "recommended"), [(50, None), (55, None), (60, "zero-shot")])
def test_a_recipe_at_chance_is_not_recommended(last, recommended):
    """50 of 100 test samples in each of three tasks of two classes is what guessing comes to; 180 of 300 is not."""
    world = World({"fine-tune": 48, "zero-shot": last})
    found = advice(world, guesses=[Guess(2, 100, 0.5)] * 3)
    assert found["answer"]["recipe"] == recommended
    if recommended is None:
        assert found["answer"]["confidence"] is None and found["plan"] == []
        said = found["answer"]["sentence"]
        assert said.startswith(
            "Nothing can be recommended: zero-shot, the best that meets the constraints, is at chance"
        )
        assert f"on 50% of the data, with {last}.0 % of 300" in said
        assert "guessing comes to 50.0 %" in said
    else:
        assert found["answer"]["sentence"].startswith("Take zero-shot")


@pytest.mark.parametrize(("seconds", "said"), [(42.0, False), (20.1, True)])
def test_a_warning_says_when_not_all_ran(seconds, said):
    slow = {"fine-tune": 40.0, "replay": 40.0, "zscl": 40.0, "lora": 40.0}
    found = advice(World({"fine-tune": 40, "replay": 45, "zscl": 50, "lora": 60}, slow), seconds)
    assert any("before all had run" in warning for warning in found["warnings"]) is said
