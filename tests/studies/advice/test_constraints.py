from __future__ import annotations

import pytest
from fakes import pilot

from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.advice.constraints import Constraints, kept_interval, operational_cost


@pytest.mark.parametrize(
    ("limits", "facts", "sentence"),
    [
        ({"raw_data": False}, {"raw_user_data_kept": True}, "keeps samples of the user's, which is not allowed"),
        (
            {"raw_data": False},
            {"raw_user_data_kept": None, "undeclared_plugins": ["ReplayPlugin"]},
            "may keep samples of the user's, which is not allowed: ReplayPlugin does not declare what it keeps",
        ),
        (
            {"raw_data": False},
            {"raw_user_data_kept": None, "undeclared_plugins": ["A", "B"]},
            "which is not allowed: A and B do not declare what they keep",
        ),
        ({"task_id": False}, {"task_id_needed": True}, "needs the task id at prediction, which must not be asked for"),
        ({"max_bytes": 300}, {"stored": 2048}, "stores 2.0 KiB, and 300 B are allowed"),
        ({"max_train_seconds": 9}, {}, "would train about 10 s on all data, and 9 s are allowed"),
        ({"keep_zero_shot": 1.0}, {"kept": -8.0}, "points on held-out sets, and 1 are allowed"),
    ],
)
def test_what_breaks_a_constraint_is_said_in_a_sentence(limits, facts, sentence):
    broken = pilot("replay", 50, **facts)
    assert sentence in Constraints(**limits).broken_by(broken, 10.0)
    assert Constraints(keep_zero_shot=50).broken_by(broken, 10.0) is None


def test_zero_shot_breaks_it_only_beyond_the_samples_interval_and_counts_in_the_score_before():
    constraints = Constraints(keep_zero_shot=2.0)
    near = pilot("zscl", 60, -2.5)
    low, high = kept_interval(near)
    assert low < -2.5 < -2.0 < high
    assert constraints.broken_by(near, 0) is None and not constraints.meets(near)
    assert constraints.score(near) == pytest.approx(59.5)
    assert constraints.missed_by(near).startswith("loses 2.50 points on held-out sets in the mean, and 2 are allowed")
    assert constraints.missed_by(pilot("zscl", 60, -1.0)) is None
    assert Constraints(keep_zero_shot=None).missed_by(near) is None
    assert constraints.score(pilot("zscl", 60, -1.0)) == pytest.approx(60)


def test_a_memory_gets_the_budget_that_is_allowed():
    constraints = Constraints(max_bytes=300_000)
    assert constraints.budgeted({"max_bytes": 1 << 20}, {}) == {"max_bytes": 300_000}
    assert constraints.budgeted({"max_bytes": 1 << 20}, {"max_bytes": 1000}) == {"max_bytes": 1000}
    assert constraints.budgeted({"rank": 8}, {"rank": 4}) == {"rank": 4}
    assert Constraints().budgeted({"max_bytes": 1 << 20}, {}) == {}


def test_the_operational_cost_is_the_sum_of_its_parts():
    ledger = pilot("x", 50, artifacts=["weights", "memory"], reversible=False, raw_user_data_kept=True).ledger
    parts = operational_cost(ledger)
    assert parts["artifacts"] == 2 and parts["raw data"] == parts["not reversible"] == 1 and sum(parts.values()) == 4
    assert sum(operational_cost(pilot("zero-shot", 50).ledger).values()) == 0
    assert operational_cost(pilot("x", 50, raw_user_data_kept=None).ledger)["raw data"] == 1


def test_a_negative_limit_is_refused():
    with pytest.raises(InputError, match="max bytes is 0 or more"):
        Constraints(max_bytes=-1)
    for value in (float("inf"), float("nan")):
        with pytest.raises(InputError, match="keep zero shot is 0 or more"):
            Constraints(keep_zero_shot=value)


def test_zero_shot_without_a_limit_never_counts():
    lossy = pilot("fine-tune", 60, -80.0)
    free = Constraints(keep_zero_shot=None)
    assert free.broken_by(lossy, 1.0) is None and free.meets(lossy) and free.score(lossy) == pytest.approx(60)
