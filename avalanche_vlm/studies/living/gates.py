"""Whether a new version may take the place of the one before: what it lost on the same samples, against a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from avalanche_vlm.evaluation.paired import PairedLoss, mean_loss, paired_loss
from avalanche_vlm.studies.living.answers import SampleAnswers

GateName = Literal["forget", "zero-shot loss"]
GateVerdict = Literal["kept", "broken", "unjudged", "off"]

_ABOUT = {"forget": "earlier experiences", "zero-shot loss": "held-out sets"}


class Lost(BaseModel):
    """What was lost on one set or on the mean of several, in points of percent.

    :param name: name of the set.
    :param before: score of the version before, in percent.
    :param after: score of the new version, in percent.
    :param loss: the first less the second.
    :param low: lowest loss that the answers do not speak against, at a confidence of 95 %.
    :param high: highest such loss.
    :param samples: number of samples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    before: float
    after: float
    loss: float
    low: float
    high: float
    samples: int


class GateFinding(BaseModel):
    """What a gate says.

    The point estimate decides: a loss above the limit breaks it. The interval says how sure that is.

    :param gate: what is limited: ``"forget"``, the mean loss on the experiences learned before, or
        ``"zero-shot loss"``, that on held-out sets.
    :param limit: points that may be lost; None for no limit.
    :param verdict: ``"kept"``, ``"broken"``, ``"unjudged"`` where no set tells, or ``"off"`` without a limit.
    :param mean: the mean over the sets, each counting once; None where there is none.
    :param sets: what was lost on each.
    :param untold: names of sets of which no sample was kept.
    :param sentence: all of it in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: GateName
    limit: float | None
    verdict: GateVerdict
    mean: Lost | None
    sets: list[Lost]
    untold: list[str]
    sentence: str


def judge_gate(
    gate: GateName,
    limit: float | None,
    before: Mapping[str, SampleAnswers],
    after: Mapping[str, SampleAnswers],
    untold: Sequence[str] = (),
) -> GateFinding:
    """Judge a new version by what it answers to the questions that the version before was asked.

    Each set's loss and interval are those of paired answers, and their mean's interval joins theirs
    (:mod:`~avalanche_vlm.evaluation.paired`).

    :param gate: what is limited.
    :param limit: points that may be lost; None for no limit.
    :param before: answers of the version before, by the name of the set.
    :param after: answers of the new version on the same samples.
    :param untold: names of sets of which no sample was kept, so that nobody knows what was lost there.
    """
    losses = {
        name: paired_loss(answers.right.tolist(), after[name].right.tolist(), independent=answers.independent)
        for name, answers in before.items()
    }
    sets = [_lost(name, loss, before[name].score, after[name].score) for name, loss in losses.items()]
    if not sets:
        where = f"{', '.join(untold)} " if untold else "any"
        verdict: GateVerdict = "off" if limit is None else "unjudged"
        sentence = f"nothing says what became of {_ABOUT[gate]}: no test samples of {where.strip()} were kept"
        if gate == "zero-shot loss":
            sentence = "nothing says what became of zero-shot ability: there is no held-out set"
        return GateFinding(
            gate=gate, limit=limit, verdict=verdict, mean=None, sets=[], untold=list(untold), sentence=sentence
        )
    both = [sum(of[name].score for name in losses) / len(losses) for of in (before, after)]
    mean = _lost(f"mean over {_ABOUT[gate]}", mean_loss(list(losses.values())), *both)
    verdict = "off" if limit is None else "broken" if mean.loss > limit else "kept"
    sentence = _said(gate, limit, verdict, mean, sets)
    if untold:
        sentence += f"; nothing says what became of {', '.join(untold)}, of which no test samples were kept"
    return GateFinding(
        gate=gate, limit=limit, verdict=verdict, mean=mean, sets=sets, untold=list(untold), sentence=sentence
    )


def why_not(findings: Sequence[GateFinding]) -> str:
    """What keeps a version from becoming the model: the limits that it broke, and where it broke none, what nobody can
    judge, so that what was merely not measured is no reason beside what is known.

    :param findings: what the gates say.
    :return: their sentences, joined by semicolons; empty if no gate objects.
    """
    for verdict in ("broken", "unjudged"):
        told = [of.sentence for of in findings if of.verdict == verdict]
        if told:
            return "; ".join(told)
    return ""


def _lost(name: str, loss: PairedLoss, before: float, after: float) -> Lost:
    points = {side: round(100 * getattr(loss, of), 4) for side, of in
              (("loss", "value"), ("low", "low"), ("high", "high"))}  # fmt: skip
    return Lost(name=name, before=round(100 * before, 4), after=round(100 * after, 4), samples=loss.samples, **points)


def _said(gate: GateName, limit: float | None, verdict: GateVerdict, mean: Lost, sets: Sequence[Lost]) -> str:
    lost = mean.loss >= 0
    low, high = (mean.low, mean.high) if lost else (-mean.high, -mean.low)
    interval = f"95 % interval {low:.1f} to {high:.1f}, {mean.samples} samples"
    moved = f"lost {mean.loss:.1f} points" if lost else f"gained {-mean.loss:.1f} points"
    said = f"{gate}: {_ABOUT[gate]} {moved} ({interval})"
    worst = max(sets, key=lambda of: of.loss)
    if len(sets) > 1 and worst.loss > 0:
        said += f", {worst.name} the most with {worst.loss:.1f}"
    if limit is None:
        return f"{said}; there is no limit"
    said += f", {'above' if verdict == 'broken' else 'within'} the limit of {limit:g}"
    sure = mean.low > limit if verdict == "broken" else mean.high <= limit
    return said if sure else f"{said}; the samples are too few to be sure of it"
