from __future__ import annotations

from itertools import pairwise

import pytest
from fakes import World
from hypothesis import given, settings
from hypothesis import strategies as st

from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.advice.constraints import Constraints
from avalanche_vlm.studies.advice.halving import Halving, Trial, attempt

SHARES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
NAMES = ["fine-tune", *"abcdefg"]
LAST = {name: 50.0 + 2 * i for i, name in enumerate(NAMES)}


def halving(world: World, seconds: float, **constraints) -> Halving:
    return Halving(world.run, SHARES, Constraints(**constraints), seconds, world.clock)


def at_once(world: World, jobs: int):
    """What runs pilots ``jobs`` at a time in a world, and tells of them last come first."""

    def together(trials, deadline):
        free, found = [world.now] * jobs, []
        for trial in trials:
            world.now = min(free)
            slot = free.index(world.now)
            found.append((trial.recipe, attempt(trial, world.run, deadline, world.clock)))
            free[slot] = world.now
        world.now = max(free)
        return reversed(found)

    return {"jobs": jobs, "together": together}


def test_the_best_half_goes_on_with_more_data():
    world = World(LAST)
    found = halving(world, 960)
    rounds = found.run(NAMES)
    assert [set(r.pilots) for r in rounds[1:]] == [{"g", "f", "e", "d"}, {"g", "f"}][: len(rounds) - 1]
    assert len(rounds[0].pilots) == 8 and rounds[1].share == 2 * rounds[0].share
    assert rounds[0].complete and rounds[1].complete and set(found.not_run) <= {"g", "f"}  # time for two rounds
    assert "not among the best 4" in rounds[0].dropped["fine-tune"] and world.now <= 960


def test_more_time_buys_more_data():
    first = {seconds: halving(World(LAST), seconds).run(NAMES)[0].share for seconds in (60, 300, 3000)}
    assert first[60] < first[300] < first[3000]


@settings(max_examples=40, deadline=None)
@given(
    st.floats(5, 500),
    st.lists(st.floats(1, 2000), min_size=len(NAMES), max_size=len(NAMES)),
)
def test_the_budget_is_never_overrun_and_nothing_disappears(seconds, speeds):
    world = World(LAST, dict(zip(NAMES, speeds, strict=True)))
    found = halving(world, seconds)
    try:
        rounds = found.run(NAMES)
    except InputError:
        assert world.now <= seconds + 1e-6
        return
    assert world.now <= seconds + 1e-6
    assert all(r.pilots for r in rounds)
    told = {name for r in rounds for name in r.pilots} | set(found.not_run)
    assert told == set(NAMES)
    for before, after in pairwise(rounds):
        gone = set(before.pilots) - set(after.pilots)
        assert gone <= set(before.dropped) | set(found.not_run)


def test_what_there_is_no_time_for_is_named():
    world = World(LAST, {"c": 10_000.0})
    found = halving(world, 100)
    found.run(NAMES)
    assert "more than 4 times" in found.not_run["c"] and found.rounds[0].complete
    assert "b" in found.rounds[0].pilots and "d" in found.rounds[0].pilots
    with pytest.raises(InputError, match=r"\(fine-tune: .* the time was up\): allow more minutes"):
        halving(World(LAST), 0.1).run(NAMES)


def test_a_stall_breaks_no_pilot_off_while_there_is_plenty_of_time():
    """Four times one second is soon taken on a machine that is busy, and an hour is left."""
    trial = Trial("lora", 0.5, estimate=1.0)
    given = {}
    for left in (10.0, 3600.0):
        attempt(trial, lambda recipe, share, limit, left=left: given.setdefault(left, limit), 50 + left, lambda: 50.0)
    assert given == {10.0: 54.0, 3600.0: 230.0}


def test_a_recipe_that_cannot_run_is_left_out_with_its_sentence():
    world = World(LAST)

    def run(name, share, deadline):
        if name == "b":
            raise InputError("recipe b needs a text tower that trains")
        return world.run(name, share, deadline)

    found = Halving(run, SHARES, Constraints(), 1000, world.clock)
    rounds = found.run(NAMES)
    assert found.not_run == {"b": "recipe b needs a text tower that trains"} and rounds[0].complete


def test_where_nothing_can_run_the_reason_is_told():
    def run(name, share, deadline):
        raise InputError("the loss is not finite")

    with pytest.raises(InputError, match=r"\(fine-tune: the loss is not finite\)$"):
        Halving(run, SHARES, Constraints(), 1000, World(LAST).clock).run(NAMES)


def test_the_pilot_that_calibrates_is_part_of_the_first_round_on_its_share():
    world = World(LAST)
    found = Halving(world.run, (1.0,), Constraints(), 1000, world.clock)
    (round,) = found.run(NAMES)
    assert world.ran == [(name, 1.0) for name in NAMES] and list(round.pilots) == NAMES


def test_what_breaks_a_constraint_does_not_go_on():
    world = World(LAST, facts={"g": {"raw_user_data_kept": True}, "f": {"kept": -20.0}})
    rounds = halving(world, 960, raw_data=False).run(NAMES)
    assert "samples of the user's" in rounds[0].dropped["g"] and "held-out sets" in rounds[0].dropped["f"]
    assert set(rounds[1].pilots) == {"e", "d", "c", "b"}


def test_seconds_on_all_data_go_with_the_cost_of_a_share():
    world = World(LAST)
    found = halving(world, 300)
    found.cost = lambda share: share**0.9
    found.run(NAMES)
    share = max(found._trained["g"])
    assert share < 1 and found.full_seconds("g") == pytest.approx(100 * share / share**0.9)


def test_what_is_cheap_goes_on_whatever_its_score():
    world = World(LAST, {"a": 1.0})
    found = halving(world, 400)
    first, second = found.run(NAMES)[:2]
    assert set(second.pilots) - {"a"} <= {"g", "f", "e", "d"} and next(iter(second.pilots)) == "a"
    assert "a" not in first.dropped and "not among the best 4" in first.dropped["b"]


def test_what_others_took_tells_how_long_a_pilot_takes():
    found = halving(World(LAST), 1000)
    found._seconds = {"fine-tune": {1 / 16: 4.0, 1 / 4: 10.0}, "a": {1 / 16: 6.0}}
    assert found.estimate("a", 1 / 4) == pytest.approx(15)
    assert found.estimate("a", 1.0) == pytest.approx(96)  # nobody ran on all: by the cost
    assert found.estimate("b", 1 / 4) == pytest.approx(12)


def test_an_advice_that_is_asked_for_again_decides_as_it_did_and_runs_nothing_twice():
    """Pilots that are kept move the clock by what they took, and are taken also when the time is up."""
    first, again = World(LAST), World(LAST)
    kept = {}

    def begin(name, share, deadline):
        kept[name, share] = first.run(name, share, deadline)
        return kept[name, share]

    rounds = Halving(begin, SHARES, Constraints(), 300, first.clock).run(NAMES)
    again.now = 250.0  # what it took to get there

    def repeat(name, share, deadline):
        if (name, share) not in kept:
            return again.run(name, share, deadline)
        again.now += kept[name, share].seconds
        return kept[name, share]

    found = Halving(repeat, SHARES, Constraints(), 300, again.clock, begun=0.0, known=lambda *pilot: pilot in kept)
    repeated = found.run(NAMES)
    assert [(r.share, list(r.pilots)) for r in repeated] == [(r.share, list(r.pilots)) for r in rounds]
    assert not again.ran and again.now == pytest.approx(250 + first.now) and first.now <= 300


def test_pilots_at_once_share_the_minutes_and_decide_alike():
    alone, beside = World(LAST), World(LAST)
    # Twice as many at a time in half the time: what is affordable, tried and dropped is the same.
    one = halving(alone, 960)
    two = Halving(beside.run, SHARES, Constraints(), 480, beside.clock, **at_once(beside, 2))
    rounds, found = one.run(NAMES), two.run(NAMES)
    assert [(r.share, list(r.pilots)) for r in found[:2]] == [(r.share, list(r.pilots)) for r in rounds[:2]]
    assert found[0].dropped == rounds[0].dropped and beside.now <= 480
    # In the same time they try on more data.
    more = World(LAST)
    largest = Halving(more.run, SHARES, Constraints(), 300, more.clock, **at_once(more, 8)).run(NAMES)[0].share
    assert largest > halving(World(LAST), 300).run(NAMES)[0].share and more.now <= 300


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_pilot_that_fails_whatever_it_is_stops_no_other(jobs):
    world = World(LAST)
    run = world.run

    def breaks(name, share, deadline):
        if name == "c":
            raise RuntimeError("no such kernel")
        return run(name, share, deadline)

    world.run = breaks
    found = Halving(breaks, SHARES, Constraints(), 1000, world.clock, **at_once(world, jobs))
    rounds = found.run(NAMES)
    assert found.not_run["c"] == "RuntimeError: no such kernel" and rounds[0].complete
    assert list(rounds[0].pilots) == [name for name in NAMES if name != "c"]
