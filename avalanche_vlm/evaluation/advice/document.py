"""The advice as plain JSON types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from avalanche_vlm.evaluation.advice.choice import choose, final_round, last_interval
from avalanche_vlm.evaluation.advice.constraints import Constraints, burden
from avalanche_vlm.evaluation.advice.halving import Halving, Round
from avalanche_vlm.evaluation.advice.pareto import front
from avalanche_vlm.evaluation.advice.pilot import Pilot
from avalanche_vlm.evaluation.advice.plan import stages
from avalanche_vlm.evaluation.advice.trend import foreseen


def document(halving: Halving, options: Mapping[str, Mapping[str, Any]], excluded: Mapping[str, str]) -> dict[str, Any]:
    """``rounds``, ``front``, ``answer``, ``plan``, ``excluded``, ``ledger`` and ``warnings``.

    :param halving: that has run.
    :param options: of the recipes, where they differ from their defaults.
    :param excluded: before anything was run, and why.
    """
    rounds, constraints = halving.rounds, halving.constraints
    names = list(dict.fromkeys(name for round in rounds for name in round.pilots))
    seconds = {name: halving.full_seconds(name) for name in names}
    final = final_round(rounds)
    choice = choose(rounds, constraints, seconds)
    broken = {
        name: why
        for round in rounds
        for name, pilot in round.pilots.items()
        if (why := constraints.broken_by(pilot, seconds[name]))
    }
    if choice is None:
        answer = {"recipe": None, "sentence": "No recipe that was tried meets the constraints: widen one of them."}
        answer |= {"confidence": "too little data", "why": "nothing was left to compare"}
        plan = []
    else:
        answer = {
            "recipe": choice.recipe,
            "sentence": _sentence(choice.recipe, rounds, halving.baseline, constraints, options),
            "confidence": choice.confidence,
            "why": choice.why,
            "second": choice.second,
        }
        plan = stages(rounds, constraints, choice.recipe, halving.baseline, seconds, options)
    return {
        "constraints": asdict(constraints),
        "rounds": [_round(round, foreseen(rounds, round), constraints, seconds) for round in rounds],
        "front": front({name: figures(pilot, seconds[name]) for name, pilot in foreseen(rounds, final).pilots.items()}),
        "answer": answer,
        "plan": plan,
        "excluded": [{"recipe": name, "because": why} for name, why in {**excluded, **broken}.items()],
        "not run": [{"recipe": name, "because": why} for name, why in halving.not_run.items()],
        "ledger": {name: _latest(rounds, name).ledger for name in names},
        "warnings": _warnings(halving, final, seconds),
    }


def figures(pilot: Pilot, seconds: float) -> tuple[float, ...]:
    """What the Pareto front is of, more being better: Last, zero-shot kept, and with a minus bytes, seconds and
    operational burden."""
    costs = (pilot.full_bytes, seconds, sum(burden(pilot.ledger).values()))
    return (pilot.last, pilot.zero_shot_kept, *(-float(cost) for cost in costs))


def _latest(rounds: Sequence[Round], name: str) -> Pilot:
    return next(round.pilots[name] for round in reversed(rounds) if name in round.pilots)


def _round(round_: Round, carried: Round, constraints: Constraints, seconds: Mapping[str, float]) -> dict[str, Any]:
    recipes = []
    for name, pilot in round_.pilots.items():
        interval, parts = last_interval(pilot), burden(pilot.ledger)
        recipes.append(
            {
                "recipe": name,
                "score": round(constraints.score(pilot), 2),
                "last": round(pilot.last, 2),
                "interval": [round(interval.low, 2), round(interval.high, 2)],
                "expected": round(min(100.0, carried.pilots[name].last), 2),
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
    name: str,
    rounds: Sequence[Round],
    baseline: str,
    constraints: Constraints,
    options: Mapping[str, Mapping[str, Any]],
) -> str:
    pilot = _latest(rounds, name)
    chosen = "".join(f" --set {key}={value}" for key, value in options.get(name, {}).items())
    against = ""
    both = next((r for r in reversed(rounds) if name in r.pilots and baseline in r.pilots), None)
    if name != baseline and both is not None:
        against = f", where {baseline} reached {both.pilots[baseline].last:.1f}"
    kept = f"; held-out sets {pilot.zero_shot_kept:+.1f} points" if pilot.kept else ""
    share = next(r.share for r in reversed(rounds) if name in r.pilots)
    return f"Take {name}{chosen}: Last {pilot.last:.1f} in its pilot on {share:.0%} of the data{against}{kept}."


def _warnings(halving: Halving, final: Round, seconds: Mapping[str, float]) -> list[str]:
    found = []
    if final.share < 1:
        found.append(
            f"Last is that of pilots on {final.share:.0%} of the training data at most; what is expected on all of it "
            "goes on along their trend, and seconds and bytes are scaled to it"
        )
    if any(not pilot.kept for pilot in final.pilots.values()):
        found.append("nothing was held out: what is kept of zero-shot could not be measured")
    if not final.complete:
        found.append("the time was up within the first round: recipes that did not run may be better")
    found.append("the test samples that chose the recipe are not those to report its score on")
    return found
