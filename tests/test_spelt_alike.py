"""Which names somebody may have meant."""

from __future__ import annotations

import time

import pytest

from avalanche_vlm.units import LONGEST_NAME_MEANT, MOST_NAMES_MEANT, did_you_mean, spelt_alike


@pytest.mark.parametrize(
    ("written", "known", "near"),
    [
        ("rnu", ["run", "report", "list"], ["run"]),
        ("", ["", "a", "run"], []),
        ("LORA", ["Lora", "lora", "loRA"], ["Lora"]),
        ("zcsl", ["lora", "zscl"], ["zscl"]),
        ("lora", ["zscl", "replay"], []),
        ("range", ["rank"], []),
        (3, ["3"], []),
    ],
)
def test_names_that_are_near(written, known, near):
    assert spelt_alike(written, known) == near


def test_of_very_many_names_none_is_looked_for():
    names = [f"{n:05d}" + "name" * 20 for n in range(20 * MOST_NAMES_MEANT)]
    begun = time.process_time()
    assert did_you_mean(names[0][::-1].ljust(LONGEST_NAME_MEANT, "e"), names) == ""
    assert time.process_time() - begun < 1
    few = [f"dog{n}" for n in range(MOST_NAMES_MEANT - 1)]
    assert spelt_alike("catt", ["cat", *few]) == ["cat"] and spelt_alike("catt", ["cat", *few, "one", "two"]) == []
