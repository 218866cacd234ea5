"""Advice from a stream and a model: pilots within minutes, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from avalanche_vlm.benchmarks.scenario import VLMBenchmark
from avalanche_vlm.catalogue import ADVISED
from avalanche_vlm.evaluation.chance import certain
from avalanche_vlm.models import VLM
from avalanche_vlm.studies.advice.constraints import Constraints
from avalanche_vlm.studies.advice.document import document
from avalanche_vlm.studies.advice.elapsed import Elapsed
from avalanche_vlm.studies.advice.halving import Halving, Trial, Tried
from avalanche_vlm.studies.advice.pilot import Pilot
from avalanche_vlm.studies.advice.pilots import Pilots, Settings
from avalanche_vlm.studies.parallel import Failure


def advise(
    benchmark: VLMBenchmark,
    *,
    model: VLM,
    settings: Settings,
    recipes: Iterable[str] = ADVISED,
    constraints: Constraints | None = None,
    minutes: float = 4.5,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Try recipes on shares of a stream's data, recommend one, and plan how to get there.

    :param benchmark: the stream to give advice on.
    :param model: pretrained; it stays as it is.
    :param settings: function from a recipe's name to the settings of its training on all data and its options.
    :param recipes: recipes to try beside ``fine-tune``, which the others are compared with.
    :param constraints: what the recipe must not cost; by default it may lose 2 points of zero-shot.
    :param minutes: minutes that all of it takes at most.
    :param seed: seed of everything that is drawn, 0 or more.
    :param device: where to run.
    :return: plain JSON types, see :func:`~avalanche_vlm.studies.advice.document.document`.
    :raises InputError: for a recipe that does not exist, or if there is no time for a single pilot.
    """
    clock = Elapsed()
    pilots = Pilots(benchmark, model, settings, constraints or Constraints(), seed=seed, device=device, clock=clock)
    return ask(pilots, pilots.run, recipes, 60 * minutes)


def ask(
    pilots: Pilots,
    run: Callable[[str, float, float], Pilot],
    recipes: Iterable[str],
    seconds: float,
    known: Callable[[str, float], bool] | None = None,
    jobs: int = 1,
    together: Callable[[Sequence[Trial], float], Iterable[tuple[str, Tried]]] | None = None,
    on_failure: Callable[[str, Failure], None] = lambda recipe, failure: None,
) -> dict[str, Any]:
    """The same, from pilots that are run, or were, by a function.

    :param pilots: the stream's pilots, whose clock tells the time.
    :param run: function that runs a pilot as :meth:`~avalanche_vlm.studies.advice.pilots.Pilots.run` does.
    :param recipes: recipes to try beside ``fine-tune``.
    :param seconds: time on the clock of ``pilots`` at which all of it must have ended.
    :param known: says by recipe and share whether a pilot was run before; None if none was.
    :param jobs: pilots that run at once.
    :param together: function that runs several pilots, as :class:`~avalanche_vlm.studies.advice.halving.Halving` has
        it; None runs one after another.
    :param on_failure: called as ``(recipe, failure)`` with what has ended a pilot, the time aside.
    """
    names, excluded = pilots.candidates(recipes)
    halving = Halving(
        run,
        pilots.shares(),
        pilots.constraints,
        seconds,
        pilots.clock,
        pilots.cost,
        begun=0.0,
        known=known or (lambda recipe, share: False),
        jobs=jobs,
        together=together,
        on_failure=on_failure,
    )
    halving.run(names)
    found = document(halving, pilots.changed_options, excluded, pilots.guesses)
    return {**found, "warnings": [*certain(pilots.task_names, pilots.guesses), *found["warnings"]]}
