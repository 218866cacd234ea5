"""The advice as plain JSON types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from avalanche_vlm.evaluation.chance import Guess, verdict
from avalanche_vlm.studies.advice.choice import Recommendation, choose, last_interval, latest
from avalanche_vlm.studies.advice.constraints import Constraints, operational_cost, total_cost
from avalanche_vlm.studies.advice.halving import Halving, Round
from avalanche_vlm.studies.advice.pareto import front
from avalanche_vlm.studies.advice.pilot import BEFORE, Pilot
from avalanche_vlm.studies.advice.plan import common, stages, with_options
from avalanche_vlm.studies.advice.trend import foreseen
from avalanche_vlm.units import percent


def document(
    halving: Halving,
    options: Mapping[str, Mapping[str, Any]],
    excluded: Mapping[str, str],
    guesses: Sequence[Guess] = (),
) -> dict[str, Any]:
    """``constraints``, ``rounds``, ``front``, ``answer``, ``plan``, ``excluded``, ``not run``, ``ledger`` and
    ``warnings``. The front is of the round that decided, whose share of the data is the answer's.

    :param halving: the halving, after it has run.
    :param options: options of the recipes that the constraints changed, by recipe.
    :param excluded: recipes that were out before anything was run, and why.
    :param guesses: what guessing comes to on every task, as far as it is known: a recipe at chance is not recommended.
    """
    rounds, constraints = halving.rounds, halving.constraints
    seconds = {name: halving.full_seconds(name) for name in latest(rounds)}
    choice = choose(rounds, constraints, seconds)
    final = choice.round if choice else foreseen(rounds, rounds[-1])
    broken = {
        name: why
        for round in rounds
        for name, pilot in round.pilots.items()
        if (why := constraints.broken_by(pilot, seconds[name]))
    }
    for name, pilot in latest(rounds).items():
        if name not in broken and (why := constraints.missed_by(pilot)):
            broken[name] = why
    plan: list[dict[str, Any]] = []
    if choice is None:
        answer = {"recipe": None, "sentence": "No recipe that was tried meets the constraints: widen one of them."}
        answer |= {"confidence": None, "why": "nothing was left to compare", "second": None}
    elif (measured := _measured(choice, rounds)) and (sentence := _at_chance(measured, guesses)):
        answer = {"recipe": None, "sentence": sentence, "confidence": None, "second": None}
        answer["why"] = "scores at chance do not tell recipes apart"
    else:
        answer = {
            "recipe": choice.recipe,
            "sentence": _sentence(choice, rounds, halving.baseline, options),
            "confidence": choice.confidence,
            "why": choice.why,
            "second": choice.second,
        }
        plan = stages(rounds, constraints, choice.recipe, halving.baseline, seconds, options)
    return {
        "constraints": asdict(constraints),
        "rounds": [_round(round, foreseen(rounds, round), constraints, seconds) for round in rounds],
        "front": front({name: figures(pilot, seconds[name]) for name, pilot in final.pilots.items()}),
        "answer": {**answer, "share of the data": final.share},
        "plan": plan,
        "excluded": [{"recipe": name, "because": why} for name, why in {**excluded, **broken}.items()],
        "not run": [{"recipe": name, "because": why} for name, why in halving.not_run.items()],
        "ledger": {name: pilot.ledger for name, pilot in latest(rounds).items()},
        "warnings": _warnings(final),
    }


def figures(pilot: Pilot, seconds: float) -> tuple[float, ...]:
    """What the Pareto front is of, more being better: Last, zero-shot kept, and with a minus bytes, seconds and
    operational cost."""
    costs = (pilot.full_bytes, seconds, total_cost(pilot.ledger))
    return (pilot.last, pilot.zero_shot_kept, *(-float(cost) for cost in costs))


def _round(round_: Round, carried: Round, constraints: Constraints, seconds: Mapping[str, float]) -> dict[str, Any]:
    recipes = []
    for name, pilot in round_.pilots.items():
        interval, parts = last_interval(pilot), operational_cost(pilot.ledger)
        recipes.append(
            {
                "recipe": name,
                "score": round(constraints.score(pilot), 2),
                "last": round(pilot.last, 2),
                "interval": [round(interval.low, 2), round(interval.high, 2)],
                "expected": round(carried.pilots[name].last, 2),
                "zero_shot_kept": round(pilot.zero_shot_kept, 2) if pilot.kept else None,
                "bytes": pilot.full_bytes,
                "seconds": round(seconds[name], 1),
                "pilot_seconds": round(pilot.seconds, 1),
                "operational": sum(parts.values()),
                "operational_parts": parts,
                "n_test": pilot.n_test,
                "dropped": round_.dropped.get(name),
            }
        )
    return {"share of the data": round_.share, "complete": round_.complete, "recipes": recipes}


def _sentence(
    choice: Recommendation, rounds: Sequence[Round], baseline: str, options: Mapping[str, Mapping[str, Any]]
) -> str:
    """What to take, and what it came to beside the baseline: on the same data, whatever the share."""
    name, share = choice.recipe, choice.round.share
    carried, measured = choice.round.pilots[name], _measured(choice, rounds)
    parts = [f"Last {measured.last:.1f} in its pilot on {percent(share)} of the data"]
    if choice.round.carried_on:
        parts.append(f"{carried.last:.1f} expected on all of them")
    if name != baseline and (both := common(rounds, name, baseline)):
        one, other, on = both
        where = "" if on == share else f" on {percent(on)}, where {name} had {one.last:.1f}"
        parts.append(f"{baseline} came to {other.last:.1f}{where}")
    if (last := latest(rounds)[name]).kept:  # which is asked whether it meets the constraints
        sets = "tasks before their turn" if BEFORE in last.kept else "held-out sets"
        parts.append(f"{sets} {last.zero_shot_kept:+.1f} points")
    return f"Take {with_options(name, options)}: {'; '.join(parts)}."


def _measured(choice: Recommendation, rounds: Sequence[Round]) -> Pilot:
    """The chosen recipe's pilot as it was measured, not carried on."""
    return next(round.pilots[choice.recipe] for round in rounds if round.share == choice.round.share)


def _at_chance(pilot: Pilot, guesses: Sequence[Guess]) -> str | None:
    """What to say in the place of a recommendation whose pilot guessing could have brought."""
    found = verdict([float(hits.mean()) for hits in pilot.tasks], guesses) if guesses else None
    if found is None or not found.at_chance:
        return None
    return (
        f"Nothing can be recommended: {pilot.recipe}, the best that meets the constraints, is at chance in its pilot "
        f"on {percent(pilot.share)} of the data, with {found}. Ask again with a model that knows such data (--model), "
        "another rate (--lr), more time (--minutes) or more test samples."
    )


def _warnings(final: Round) -> list[str]:
    found, share = [], percent(final.share)
    if final.share < 1:
        found.append(
            f"Last is that of pilots on {share} of the training data at most; what is expected on all of it goes on "
            "along their trend, and seconds and bytes are scaled to it"
        )
    if any(not pilot.kept for pilot in final.pilots.values()):
        found.append("nothing was held out: what is kept of zero-shot could not be measured")
    if not final.complete:
        found.append(f"the time was up before all had run on {share} of the data: what did not may be better")
    found.append("the test samples that chose the recipe are not those to report its score on")
    return found
