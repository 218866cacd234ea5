"""Which recipes stand for all where a check over all of them takes long."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.training import recipes

QUICK = ("fine-tune", "replay", "zscl", "lora", "wise-ft", "ranpac", "l2p")
"""One of each family, and one of each kind of state: samples, references, modules, weights, heads, prompts."""

LESS: dict[str, dict[str, Any]] = {
    "gift": {"n": 16},
    "lwf-vr": {"sentences": 16},
    "ewc-clip": {"samples": 8},
    "adapter-per-task": {"bottleneck": 8},
    "moe-adapters": {"experts": 4, "bottleneck": 8},
    "rail-primal": {"hidden": 32},
    "ranpac": {"hidden": 32},
    "lada": {"units": 2, "bottleneck": 4},
    "proof": {"exemplars": 3},
}
"""Options with which recipes are quick on 16 samples a task."""


def noise(prompts: list[str], seed: int) -> torch.Tensor:
    """Pictures of nothing, for recipes that have theirs generated."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (len(prompts), 3, 32, 32), dtype=torch.uint8, generator=generator)


def needed(recipe: str, benchmark: VLMBenchmark) -> dict[str, Any]:
    """The resources without which a recipe cannot be built."""
    resources = {"reference": benchmark.reference, "generator": noise}
    return {name: resources[name] for name in recipes.describe(recipe).needs}


def one_each(
    cases: Iterable[tuple[Any, ...]], standing: Collection[Any] | None = None, quick: Collection[Any] = ()
) -> list[Any]:
    """Parameters of a test over a whole grid, of which a part runs with the slow ones: one case of each name, for the
    first name its first case, for the next its second, and so on in turn. The others are marked as ``grid``: they run
    when pytest is given ``--grid``.

    :param cases: tuples that begin with a name.
    :param standing: names of which a case runs; None for all.
    :param quick: names of which the case that runs is a quick one.
    """
    by_name: dict[Any, list[tuple[Any, ...]]] = {}
    for case in (every := list(cases)):
        by_name.setdefault(case[0], []).append(case)
    named = [of for name, of in by_name.items() if standing is None or name in standing]
    chosen = [of[turn % len(of)] for turn, of in enumerate(named)]

    def marks(case: tuple[Any, ...]) -> list[Any]:
        if case not in chosen:
            return [pytest.mark.slow, pytest.mark.grid]
        return [] if case[0] in quick else [pytest.mark.slow]

    return [pytest.param(*case, marks=marks(case)) for case in every]


def slow_but_for_some(cases: Iterable[Any], quick: Collection[Any] = QUICK) -> list[Any]:
    """Parameters of a test, those that do not stand for the others marked as slow. Of several cases of a name that
    stands for others one is quick: for the first such name its first case, for the next its second, and so on in turn.

    :param cases: names (of recipes, for example), or tuples that begin with one.
    :param quick: names that stand for the others.
    """
    by_name: dict[Any, list[tuple[Any, ...]]] = {}
    every = [case if isinstance(case, tuple) else (case,) for case in cases]
    for case in every:
        by_name.setdefault(case[0], []).append(case)
    standing = [of for name, of in by_name.items() if name in quick]
    chosen = [of[turn % len(of)] for turn, of in enumerate(standing)]
    return [pytest.param(*case, marks=[] if case in chosen else [pytest.mark.slow]) for case in every]
