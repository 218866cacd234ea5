"""What an object was set to, in plain JSON types."""

from __future__ import annotations

import functools
import json
import logging

import numpy as np
import pytest
import torch

from avalanche_vlm.memory.generators import generator_facts
from avalanche_vlm.memory.settings import settings_of


class Schedule:
    __slots__ = ("steps",)

    def __init__(self, steps: int) -> None:
        self.steps = steps


class Painter:
    """A generator with settings of every kind."""

    def __init__(self, **changed) -> None:
        torch.manual_seed(0)
        self.prefix = ("a", "photo")
        self.scales = {"low": 1.0, "high": float("inf")}
        self.schedule = Schedule(4)
        self.noise = torch.zeros(3)
        self.mean = np.zeros(2)
        self.net = torch.nn.Linear(2, 2)
        self.dtype = torch.float32
        self.negatives = {"blurred", "cropped"}
        self.log = logging.getLogger("painter")
        self.device = "cpu"
        self._drawn = 0
        self.itself = self
        for name, value in changed.items():
            setattr(self, name, value)

    def __call__(self, prompts, seed, steps=1):
        return torch.zeros(len(prompts), 3, 4, 4, dtype=torch.uint8)


def painting(steps):
    def paint(prompts, seed):
        return torch.full((len(prompts), 3, 4, 4), steps, dtype=torch.uint8)

    return paint


@pytest.mark.parametrize(
    "changed",
    [
        {"prefix": ("a", "drawing")},
        {"scales": {"low": 2.0, "high": float("inf")}},
        {"schedule": Schedule(5)},
        {"noise": torch.ones(3)},
        {"noise": torch.zeros(3, dtype=torch.float16)},
        {"mean": np.ones(2)},
        {"net": torch.nn.Linear(2, 2, bias=False)},
        {"dtype": torch.bfloat16},
        {"negatives": {"blurred"}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_setting_that_is_not_plain_is_told(changed):
    assert generator_facts(Painter(**changed)) != generator_facts(Painter())


def test_equal_settings_are_told_equally_and_what_decides_nothing_is_left_out():
    facts = generator_facts(Painter())
    assert facts == generator_facts(Painter(device="cuda", _drawn=9)) and json.loads(json.dumps(facts)) == facts
    assert "Infinity" not in json.dumps(facts)  # no JSON has it
    assert facts["schedule"]["steps"] == 4 and facts["kind"].endswith("Painter")


def test_arguments_of_partial_functions_owners_of_methods_and_kept_variables_are_told():
    painter = Painter()
    assert settings_of(functools.partial(painter, steps=3))["steps"] == 3
    assert settings_of(functools.partial(functools.partial(max, 7), key=len)) == {
        "kind": "builtins.max",
        "arguments": [7],
        "key": {"kind": "builtins.len"},
    }
    assert settings_of(Painter(prefix="b").__call__)["of"]["prefix"] == "b"
    assert settings_of(painting(3)) != settings_of(painting(4)) and settings_of(painting(3))["steps"] == 3
    partial = [functools.partial(Painter(schedule=Schedule(steps)), steps=3) for steps in (4, 5)]
    assert generator_facts(partial[0]) != generator_facts(partial[1])
