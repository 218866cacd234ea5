from __future__ import annotations

from fakes import pilot

from avalanche_vlm.studies.advice.choice import choose
from avalanche_vlm.studies.advice.constraints import Constraints
from avalanche_vlm.studies.advice.halving import Round
from avalanche_vlm.studies.advice.plan import stages

SIMPLE = {"artifacts": ["weights"], "reversible": False}
HEAVY = {"artifacts": ["weights", "memory"], "raw_user_data_kept": True, "reversible": False}


def planned(*rounds: Round, chosen: str, **constraints):
    names = {name for r in rounds for name in r.pilots}
    options = {"replay": {"max_bytes": 300}}
    return stages(rounds, Constraints(**constraints), chosen, "fine-tune", dict.fromkeys(names, 9.0), options)


def test_the_plan_goes_from_the_simplest_cure_to_the_recommended_one():
    round = Round(
        0.25,
        {
            p.recipe: p
            for p in (
                pilot("fine-tune", 40, -20, **SIMPLE),
                pilot("wise-ft", 60, -1, **SIMPLE),
                pilot("magmax", 52, -1, **SIMPLE),
                pilot("replay", 80, -1, stored=300, **HEAVY),
            )
        },
    )
    first, second = planned(round, chosen="replay")
    assert (first["recipe"], second["recipe"]) == ("wise-ft", "replay")
    low, high = first["brings"]["last"]
    assert 0 < low < 20 < high and first["brings"]["over"] == "fine-tune"
    assert first["brings"]["zero-shot"][0] > 15  # it undoes what fine-tuning loses
    assert "+20.0 points of Last" in first["go on when"] and "replay" in first["go on when"]
    assert "held-out sets: -1.0 points" in first["watch"] and "below -2.0" in first["watch"]
    assert second["do"] == "train with --recipe replay --set max_bytes=300 in the place of wise-ft"
    assert second["costs"] == {
        "bytes": 300,
        "seconds": 9.0,
        "operational": 4,
        "parts": {
            **dict.fromkeys(("reference pairs", "generator", "task id"), 0),
            "artifacts": 2,
            "raw data": 1,
            "not reversible": 1,
        },
        "artifacts": ["weights", "memory"],
    }
    assert "last stage" in second["go on when"]


def test_what_breaks_a_constraint_or_brings_nothing_is_no_stage():
    pilots = [pilot("fine-tune", 40, **SIMPLE), pilot("wise-ft", 60, -9, **SIMPLE), pilot("magmax", 40.5, **SIMPLE)]
    round = Round(0.25, {p.recipe: p for p in [*pilots, pilot("replay", 80, **HEAVY)]})
    assert [stage["recipe"] for stage in planned(round, chosen="replay")] == ["replay"]


def test_a_light_recommendation_is_the_only_stage():
    pilots = [pilot("fine-tune", 40, **SIMPLE), pilot("lora", 80, artifacts=["modules"]), pilot("replay", 70, **HEAVY)]
    round = Round(0.25, {p.recipe: p for p in pilots})
    assert choose([round], Constraints(), dict.fromkeys(round.pilots, 1.0)).recipe == "lora"
    (stage,) = planned(round, chosen="lora")
    assert stage["brings"]["over"] == "fine-tune" and stage["costs"]["operational"] == 1


def test_gains_are_of_the_largest_share_that_both_ran_on():
    small = Round(0.125, {p.recipe: p for p in (pilot("fine-tune", 40), pilot("wise-ft", 60), pilot("lora", 62))})
    large = Round(0.25, {p.recipe: p for p in (pilot("fine-tune", 50), pilot("lora", 80))})
    (stage,) = planned(small, large, chosen="lora")
    assert stage["brings"]["share of the data"] == 0.25
    assert stage["brings"]["last"][0] < 30 < stage["brings"]["last"][1]
