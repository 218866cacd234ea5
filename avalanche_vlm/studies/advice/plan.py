"""The plan: in which order to introduce what was found, and when to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from avalanche_vlm.studies.advice.choice import gain, latest
from avalanche_vlm.studies.advice.constraints import (
    Constraints,
    kept_interval,
    operational_cost,
    resampling,
    total_cost,
)
from avalanche_vlm.studies.advice.halving import Round
from avalanche_vlm.studies.advice.pilot import Pilot
from avalanche_vlm.studies.attribution.bootstrap import Estimate

WORTH = 1.0
"""Points of Last below which a stage is not worth its work."""


def with_options(name: str, options: Mapping[str, Mapping[str, Any]]) -> str:
    """A recipe's name and the options of it that the constraints changed, as the command line has them."""
    return name + "".join(f" --set {key}={value}" for key, value in options.get(name, {}).items())


def common(rounds: Sequence[Round], one: str, other: str) -> tuple[Pilot, Pilot, float] | None:
    """Both recipes' pilots on the largest share that both ran on, and that share."""
    for round in reversed(rounds):
        if one in round.pilots and other in round.pilots:
            return round.pilots[one], round.pilots[other], round.share
    return None


def stages(
    rounds: Sequence[Round],
    constraints: Constraints,
    chosen: str,
    baseline: str,
    seconds: Mapping[str, float],
    options: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """From plain fine-tuning to the recommended recipe.

    A stage before it has less operational cost than the recipe and more than the stage before, meets the constraints,
    gains surely, and has the largest gain of Last per operational cost. Gains are those of the largest share of data on
    which both recipes ran.

    :param seconds: seconds of training on all data, by recipe.
    :param options: options of the recipes that the constraints changed, by recipe; all else is as it was asked for.
    """
    pilots = latest(rounds)
    weight = {name: total_cost(pilot.ledger) for name, pilot in pilots.items()}
    order: list[str] = []
    done = baseline
    while True:
        found = {}
        for name, pilot in pilots.items():
            heavier = weight[name] > weight[done] if order else True
            fits = constraints.broken_by(pilot, seconds[name]) is None and constraints.meets(pilot)
            if name in (baseline, chosen, *order, "zero-shot") or not fits or not heavier:
                continue
            if weight[name] >= weight[chosen] or (brings := _gain(rounds, name, done)) is None:
                continue
            ahead = _gain(rounds, chosen, name)
            if brings.low > 0 and brings.value >= WORTH and (ahead is None or ahead.value >= WORTH):
                found[name] = brings.value / max(1, weight[name] - (weight[done] if order else 0))
        if not found:
            break
        done = max(found, key=found.__getitem__)
        order.append(done)
    order.append(chosen)
    before = [baseline, *order[:-1]]
    return [
        _stage(number, name, previous, later, rounds, pilots, constraints, seconds, options)
        for number, (name, previous, later) in enumerate(zip(order, before, [*order[1:], None], strict=True), start=1)
    ]


def _gain(rounds: Sequence[Round], one: str, other: str) -> Estimate | None:
    both = common(rounds, one, other)
    return None if both is None else gain(*both[:2])


def _stage(
    number: int,
    name: str,
    previous: str,
    later: str | None,
    rounds: Sequence[Round],
    pilots: Mapping[str, Pilot],
    constraints: Constraints,
    seconds: Mapping[str, float],
    options: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    pilot, parts = pilots[name], operational_cost(pilots[name].ledger)
    low, high = kept_interval(pilot)
    limit = min(max(constraints.least_kept, -100.0), low)
    stage = {
        "stage": number,
        "recipe": name,
        "do": f"train with --recipe {with_options(name, options)}"
        + ("" if number == 1 else f" in the place of {previous}"),
        "brings": {"over": previous, **_brings(rounds, name, previous)},
        "costs": {
            "bytes": pilot.full_bytes,
            "seconds": round(seconds[name], 1),
            "operational": sum(parts.values()),
            "parts": parts,
            "artifacts": pilot.ledger["artifacts"],
        },
        "watch": f"the held-out sets: {pilot.zero_shot_kept:+.1f} points against the pretrained model in the pilot "
        f"({low:+.1f} to {high:+.1f}); below {limit:+.1f} something is not as it was there"
        if pilot.kept
        else f"Last: {pilot.last:.1f} in the pilot",
    }
    if later is None:
        stage["go on when"] = "this is the last stage: ask again when tasks of another kind come"
        return stage
    more = _gain(rounds, later, name)
    further = ""
    if more is not None:
        further = f" ({more.value:+.1f} points of Last in the pilots, {more.low:+.1f} to {more.high:+.1f})"
    fall = f"the held-out sets fall below {limit:+.1f}, or " if pilot.kept else ""
    stage["go on when"] = f"{fall}what {later} brings beyond it{further} is worth its cost"
    return stage


def _brings(rounds: Sequence[Round], name: str, previous: str) -> dict[str, Any]:
    both = None if name == previous else common(rounds, name, previous)
    if both is None:
        return {"last": None, "zero-shot": None, "share of the data": None}
    one, other, share = both
    last = gain(one, other)
    kept = None
    if one.kept:
        change = np.concatenate([one.kept[key] - other.kept[key] for key in one.kept])
        kept = [round(value, 2) for value in resampling(map(len, one.kept.values())).mean(100 * change)[1:]]
    return {"last": [round(last.low, 2), round(last.high, 2)], "zero-shot": kept, "share of the data": share}
