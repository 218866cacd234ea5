"""A short version of ``benchmarks/kills.py``: SIGKILL, at a moment and in the write of a checkpoint."""

from __future__ import annotations

import os
import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from quick import LESS

SCRIPT = Path(__file__).parents[2] / "benchmarks/kills.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists() or not hasattr(os, "fork"), reason="needs fork and /proc"),
]


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    spec = spec_from_file_location("kills", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["kills"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.preload()
    assert module.LESS == LESS  # what a script of benchmarks cannot have from the tests
    return module


@pytest.mark.parametrize(
    ("recipe", "kind", "workers"), [pytest.param("replay", "classes", 0, marks=pytest.mark.grid), ("zscl", "pairs", 2)]
)
def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(kills, tmp_path, monkeypatch, recipe, kind, workers):
    class Draws(random.Random):
        """A moment, then the write, then no more."""

        again = iter((0.9, 0.1, 0.1, 1.0))

        def random(self) -> float:
            return next(self.again)

        def randint(self, low: int, high: int) -> int:
            return min(5, high)  # of those that follow on the first kill

        def uniform(self, low: float, high: float) -> float:
            return high / 5  # early: the run that is measured may be the slowest of all

    monkeypatch.setattr(kills.random, "Random", Draws)
    case = kills.Case(recipe, kind, workers)
    found = kills.trial(case, tmp_path / "run", 0.003, "0", 0.5)
    assert [next(iter(kill)) for kill in found["kills"]] == ["after seconds", "in the write, before operation"], found
    assert found["code"] == 0 and set(found["same"].values()) == {True} and not found["left behind"], found
    assert set(found["same"]) == {*kills.PARTS, "result.json"}
    assert "1 ended with the bytes" in kills.summary([found], 0.003)


def test_what_a_kill_costs_is_counted_from_the_last_iteration_that_was_kept(kills):
    steps = "begin 0\n0 1 10\n0 2 11\n0 3 12\n1 1 30\nbegin 50\nbegin 60\n0 3 61\n1 1 70\nbegin 80\n1 2 81\n"
    first, second, third = kills.repeated(steps, [31.0, 55.0, 70.5])
    assert first == {"iterations": 2, "seconds": 20.0, "longest": 1.0}
    assert second == {"iterations": 0, "seconds": 0.0, "longest": 0.0}
    assert third["iterations"] == 0 and third["seconds"] == 0.0
    trials = [{"recipe": "x", "kind": "classes", "workers": 0, "code": 0, "same": {"model": False}, "left behind": []}]
    trials[0] |= {"kills": [{"after seconds": 1.0}], "repeated": [first]}
    said = kills.summary(trials, 0.1)
    assert "0 ended with the bytes" in said and "20.00 s at most, with checkpoints 6.00 s apart" in said
    assert "in 1 kills more than the interval and two iterations" in said
