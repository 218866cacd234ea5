"""What the interventions come to: the most specific one that repairs what can be repaired names the cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from avalanche_vlm.studies.attribution.bootstrap import Estimate, PairedBootstrap
from avalanche_vlm.studies.attribution.measure import Measured

UNDOES = {
    "re-match": "mismatched pairs",
    "map": "drift",
    "block": "interference",
    "way back": "erosion",
}
"""Kind of intervention to the failure that it undoes."""


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
        """Whether it may be one for all that these pairs say."""
        return missing.low <= self.share * loss.value

    def place(self, chosen: int, blocks: int) -> bool:
        """Whether so many of the model's blocks are one."""
        return chosen == 1 or chosen <= self.few * blocks


def judge(measured: Measured, bootstrap: PairedBootstrap, rule: Rule, chance: float) -> dict[str, Any]:
    """The attribution as plain JSON types, in points of 100.

    The order of specificity: deal the pairs out anew, rotate the spaces back, put one block back, put a few back (as
    the laboratory combined them), go back as a whole.

    :param measured: scores with maps, blocks, combinations and half the way back.
    :param bootstrap: bootstrap over the pairs, which gives the intervals.
    :param rule: what counts as a repair.
    :param chance: mean score of guessing, in [0, 1].
    """

    def points(values: np.ndarray) -> Estimate:
        return bootstrap.mean(100 * values)

    given, trained, pretrained = measured.given, measured.trained, measured.pretrained
    total, by_weights, by_pairs = points(pretrained - given), points(pretrained - trained), points(trained - given)
    rows = [_row("re-match the pairs", "re-match", by_pairs, total)]
    names = {"rotate": "rotate each space back (Procrustes)", "linear": "map each space back (linear)"}
    rows += [_row(names[m], "map", points(v - trained), total) for m, v in measured.maps.items()]
    best = max(measured.blocks, key=lambda block: measured.blocks[block].mean())
    combinations: dict[tuple[str, ...], np.ndarray] = dict(measured.combined)
    if (measured.blocks[best] != trained).any():
        combinations = {(best,): measured.blocks[best], **combinations}
    for chosen, values in combinations.items():
        name = f"put back {' + '.join(chosen)}" + (" (greedy)" if len(chosen) > 1 else "")
        rows.append(_row(name, "block", points(values - trained), total))
    rows += [_row("half way back", "way back", points(v - trained), total) for v in measured.way_back.values()]
    rows.append(_row("all the way back", "way back", by_weights, total))

    mismatch = points(measured.pretrained - measured.pretrained_given)
    pairs_are_wrong = rule.lost(mismatch) and measured.mismatched > 0
    weights_lost = rule.lost(by_weights)
    cause, module, left, unsure = "nothing lost", None, total, False
    if weights_lost:
        repairs: list[tuple[str, str | None, np.ndarray]] = [("drift", None, measured.maps["rotate"])]
        repairs += [
            ("interference", " + ".join(chosen), values)
            for chosen, values in combinations.items()
            if rule.place(len(chosen), len(measured.blocks))
        ]
        cause, module, left = "erosion", None, Estimate(0.0, 0.0, 0.0)
        for name, where, values in repairs:
            missing = points(pretrained - values)
            if rule.repaired(missing, by_weights):
                cause, module, left = name, where, missing
                break
            unsure |= rule.possible(missing, by_weights)
    second = None
    if pairs_are_wrong and (not weights_lost or by_pairs.value >= by_weights.value):
        second, cause, module, left = cause if weights_lost else None, "mismatched pairs", None, by_weights
    elif pairs_are_wrong:
        second = "mismatched pairs"
    elif not weights_lost and points(pretrained).low <= 300 * chance:
        cause = "unexplained"
    return {
        "pairs": len(given),
        "mismatched": measured.mismatched,
        "pretrained": round(100 * float(pretrained.mean()), 4),
        "trained": round(100 * float(given.mean()), 4),
        "lost": _json(total),
        "interventions": rows,
        "unexplained": _json(left),
        "modules": [
            {"block": block, **_json(points(values - trained), "recovered")}
            for block, values in measured.blocks.items()
        ],
        "verdict": {
            "cause": cause,
            "module": module,
            "sentence": _sentence(cause, module, second, unsure, total, left, measured, chance),
        },
    }  # fmt: skip


def _row(name: str, kind: str, recovered: Estimate, total: Estimate) -> dict[str, Any]:
    share = round(recovered.value / total.value, 4) if total.value > 0 else None
    return {"name": name, "undoes": UNDOES[kind], **_json(recovered, "recovered"), "share": share}


def _json(estimate: Estimate, name: str = "points") -> dict[str, float]:
    return {name: round(estimate.value, 4), "low": round(estimate.low, 4), "high": round(estimate.high, 4)}


def _sentence(
    cause: str,
    module: str | None,
    second: str | None,
    unsure: bool,
    total: Estimate,
    left: Estimate,
    measured: Measured,
    chance: float,
) -> str:
    lost = f"Of {total.value:.1f} points lost"
    all_but = "all" if left.value < 0.05 else f"all but {left.value:.1f}"
    n = len(measured.given)
    wrong = f"{measured.mismatched} of {n} pairs carry a caption that the pretrained model finds clearly wrong"
    pretrained = 100 * measured.pretrained.mean()
    sentence = {
        "nothing lost": f"On these pairs nothing was lost that can be told from chance ({total.value:.1f} points).",
        "unexplained": f"The pretrained model itself does not know these pairs (R@1 {pretrained:.1f}, by chance "
        f"{100 * chance:.1f}), so nothing that is put back can help: they may all be "
        "mismatched, or of a kind that it never saw.",
        "mismatched pairs": f"{wrong} and another clearly right: with these dealt out anew, {all_but} of the "
        f"{total.value:.1f} points are there again, whatever the weights.",
        "drift": f"{lost}, {all_but} come back when each feature space is rotated to where it was: the spaces have "
        "moved, and what is in them is intact.",
        "interference": f"{lost}, {all_but} come back when {module} is put back, and no rotation does the same: the "
        "damage sits there.",
        "erosion": f"{lost}, neither a rotation nor a single block, nor few enough of them, brings back what all "
        "weights together do: the damage is spread over the towers.",
    }[cause]
    if cause == "erosion" and unsure:
        sentence = (
            f"{lost}, all weights together bring back what can be brought back; whether less would do as well cannot "
            f"be told on these {n} pairs."
        )
    if second == "mismatched pairs":
        sentence += f" Besides, {wrong}."
    elif second is not None:
        sentence += f" Of the pairs that are right, training lost {left.value:.1f} points on top ({second})."
    return sentence
