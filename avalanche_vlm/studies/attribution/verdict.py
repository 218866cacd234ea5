"""What the interventions come to: the most specific one that repairs what can be repaired names the cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from avalanche_vlm.studies.attribution.accounts import Account, Finding
from avalanche_vlm.studies.attribution.bootstrap import Estimate, PairedBootstrap
from avalanche_vlm.studies.attribution.measure import Measured


@dataclass(frozen=True)
class Rule:
    """When an intervention counts as a repair.

    Putting all weights back repairs everything that training broke, and many lesser interventions repair a part of it:
    they substitute for each other, so the largest recovery says nothing. What tells is parsimony. The cause is the most
    specific intervention that recovers *as much as* putting everything back does. "As much" has to allow for the error
    of a fitted map: at most ``share`` of the loss is missing, and on its whole interval at most twice that. So with few
    pairs a repair has to be shown, and a lack of evidence names no place: where nothing specific is shown to be
    enough, the damage counts as spread.

    A few blocks are a place only if they are few among all: any half of a tower repairs most of what happened in it.

    :param share: share of the loss that a repair may leave, in [0, 0.5).
    :param few: share of the model's blocks up to which several count as a place, in [0, 1]; one always does.
    :param least: points below which nothing counts as lost.
    """

    share: float = 0.1
    few: float = 0.1
    least: float = 1.0

    def lost(self, loss: Estimate) -> bool:
        """Whether a loss is there at all: large enough, and above zero on its whole interval."""
        return loss.value >= self.least and loss.low > 0

    def repaired(self, missing: Estimate, loss: Estimate) -> bool:
        """Whether an intervention that leaves this much of the loss counts as a repair."""
        return missing.value <= self.share * loss.value and missing.high <= 2 * self.share * loss.value

    def possible(self, missing: Estimate, loss: Estimate) -> bool:
        """Whether it may be one for all that these samples say."""
        return missing.low <= self.share * loss.value

    def place(self, chosen: int, blocks: int) -> bool:
        """Whether so many of the model's blocks are one."""
        return chosen == 1 or chosen <= self.few * blocks


def judge(measured: Measured, bootstrap: PairedBootstrap, rule: Rule, account: Account) -> dict[str, Any]:
    """The attribution as plain JSON types, in points of 100.

    The order of specificity: amend the samples, rotate the spaces back, put one block back, put a few back (as the
    laboratory combined them), go back as a whole.

    :param measured: scores with maps, blocks, combinations and half the way back.
    :param bootstrap: bootstrap over the samples, which gives the intervals.
    :param rule: what counts as a repair.
    :param account: names and sentences of this kind of loss.
    """

    def points(values: np.ndarray) -> Estimate:
        return bootstrap.mean(100 * values)

    given, trained, reference, target = measured.given, measured.trained, measured.reference, measured.target
    total, by_weights, by_amending = points(target - given), points(reference - trained), points(trained - given)
    best = max(measured.blocks, key=lambda block: points(measured.blocks[block]).value)
    combinations: dict[tuple[str, ...], np.ndarray] = dict(measured.combined)
    if (measured.blocks[best] != trained).any():
        combinations = {(best,): measured.blocks[best], **combinations}
    recovered: list[tuple[str, str, Estimate]] = []
    if account.amendment is not None:
        recovered.append((account.amendment, account.amends, by_amending))
    names = {"rotate": "rotate each space back (Procrustes)", "linear": "map each space back (linear)"}
    recovered += [(names[m], "drift", points(v - trained)) for m, v in measured.maps.items()]
    for chosen, values in combinations.items():
        name = f"put back {' + '.join(chosen)}" + (" (greedy)" if len(chosen) > 1 else "")
        recovered.append((name, "interference", points(values - trained)))
    recovered += [("half way back", account.spread, points(v - trained)) for v in measured.way_back.values()]
    recovered.append(("all the way back", account.spread, by_weights))

    # What the samples lack and what the weights lost may cancel out: then there is nothing to explain.
    lost = rule.lost(total)
    amendable = lost and rule.lost(points(reference - measured.reference_given))
    weights_lost = lost and rule.lost(by_weights)
    cause, module, left, unsure = "nothing lost", None, total, False
    if weights_lost:
        repairs: list[tuple[str, str | None, np.ndarray]] = []
        if "rotate" in measured.maps:
            repairs.append(("drift", None, measured.maps["rotate"]))
        repairs += [
            ("interference", " + ".join(chosen), values)
            for chosen, values in combinations.items()
            if rule.place(len(chosen), len(measured.blocks))
        ]
        cause, left = account.spread, points(target - reference)
        for name, where, values in repairs:
            missing = points(reference - values)
            if rule.repaired(missing, by_weights):
                cause, module, left = name, where, points(target - values)
                break
            unsure |= rule.possible(missing, by_weights)
    second = None
    if amendable and (not weights_lost or by_amending.value >= by_weights.value):
        second, cause, module, left = cause if weights_lost else None, account.amends, None, points(target - trained)
    elif amendable:
        second = account.amends
    elif not weights_lost and account.unexplained(lost, points(reference), points(given)):
        cause = "unexplained"
    helps = {}
    if "rotate" in measured.maps:
        helps["a rotation brings back"] = points(measured.maps["rotate"] - trained).value
    helps[f"the best block ({best})"] = points(measured.blocks[best] - trained).value
    found = Finding(
        cause, module, second, unsure, len(given), total, left, by_weights, by_amending, points(target - reference),
        points(target), helps,
    )  # fmt: skip
    return {
        "score": account.score,
        "samples": len(given),
        "before": round(points(target).value, 4),
        "before_is": account.before_is,
        "trained": round(points(given).value, 4),
        "lost": _json(total),
        "interventions": [_row(name, undoes, estimate, total) for name, undoes, estimate in recovered],
        "unexplained": _json(left),
        "modules": [
            {"block": block, **_json(points(values - trained), "recovered")}
            for block, values in measured.blocks.items()
        ],
        "verdict": {"cause": cause, "module": module, "sentence": account.sentence(found)},
    }


def _row(name: str, undoes: str, recovered: Estimate, total: Estimate) -> dict[str, Any]:
    share = round(recovered.value / total.value, 4) if total.value > 0 else None
    return {"name": name, "undoes": undoes, **_json(recovered, "recovered"), "share": share}


def _json(estimate: Estimate, name: str = "points") -> dict[str, float]:
    return {name: round(estimate.value, 4), "low": round(estimate.low, 4), "high": round(estimate.high, 4)}
