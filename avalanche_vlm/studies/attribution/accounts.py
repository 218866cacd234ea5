"""How a loss is spoken of: names and sentences, for each kind of loss that can be attributed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from avalanche_vlm.studies.attribution.bootstrap import Estimate


@dataclass(frozen=True)
class Finding:
    """What was found, in points of 100.

    :param cause: name of the cause.
    :param module: the block, or blocks joined by a plus, where the damage sits; None where it has no place.
    :param second: another cause beside it; None without one.
    :param unsure: whether something more specific may be enough, for all that these samples say.
    :param samples: number of samples.
    :param lost: the whole loss.
    :param left: what the verdict's intervention leaves.
    :param by_weights: what putting all weights back brings back.
    :param amended: what the amendment brings back.
    :param rest: what is not brought back by both.
    :param before: mean score before the loss.
    :param helps: what the best of each more specific kind of intervention brings back, by its name in a sentence.
    """

    cause: str
    module: str | None
    second: str | None
    unsure: bool
    samples: int
    lost: Estimate
    left: Estimate
    by_weights: Estimate
    amended: Estimate
    rest: Estimate
    before: Estimate
    helps: dict[str, float] = field(default_factory=dict)


class Account(ABC):
    """Names and sentences of one kind of loss."""

    score: str
    """What the score is."""
    before_is: str
    """What the model was before the loss."""
    amendment: str | None
    """What is amended, as an intervention; None if nothing is."""
    amends: str
    """The cause that the amendment undoes."""
    spread: str
    """The cause if only all weights together bring back what was lost."""
    where = ""
    """What was lost, after the word."""
    samples: str
    """What the samples are called."""

    @abstractmethod
    def unexplained(self, lost: bool, before: Estimate, trained: Estimate) -> bool:
        """Whether there is something to explain although neither weights nor the amendment bring anything back.

        :param lost: whether anything was lost.
        :param before: the mean score before, in points.
        :param trained: the mean score after the training, in points.
        """

    def sentence(self, found: Finding) -> str:
        """The verdict in one sentence or two.

        :param found: what was found.
        """
        lost = f"Of {found.lost.value:.1f} points lost{self.where}"
        all_but = "all" if found.left.value < 0.05 else f"all but {found.left.value:.1f}"
        if found.cause == "nothing lost":
            return self.nothing(found)
        if found.cause == "unexplained":
            return self.cannot(found)
        if found.cause == self.amends:
            said = self.amended(found, lost, all_but)
        elif found.cause == "drift":
            said = (
                f"{lost}, {all_but} come back when each feature space is rotated to where it was: the spaces have "
                "moved, and what is in them is intact."
            )
        elif found.module is not None:
            said = (
                f"{lost}, {all_but} come back when {found.module} is put back, and no rotation does the same: the "
                "damage sits there."
            )
        elif found.unsure:
            said = (
                f"{lost}, all weights together bring back what can be brought back; whether less would do as well "
                f"cannot be told on these {found.samples} {self.samples}.{_helps(found)}"
            )
        else:
            said = (
                f"{lost}, neither a rotation nor a single block, nor few enough of them, brings back what all weights "
                f"together do: the damage is spread over the towers.{_helps(found)}"
            )
        return f"{said}{self.besides(found)}"

    @abstractmethod
    def nothing(self, found: Finding) -> str:
        """Where nothing was lost.

        :param found: what was found.
        """

    @abstractmethod
    def cannot(self, found: Finding) -> str:
        """Where nothing that is undone helps.

        :param found: what was found.
        """

    @abstractmethod
    def amended(self, found: Finding, lost: str, all_but: str) -> str:
        """Where the amendment brings back the most.

        :param found: what was found.
        :param lost: the words on the loss.
        :param all_but: how much of it comes back, in words.
        """

    def besides(self, found: Finding) -> str:
        """What else there is to say, beginning with a space; empty if there is nothing.

        :param found: what was found.
        """
        return ""


def _helps(found: Finding) -> str:
    """What lesser interventions bring back, as a sentence after a space."""
    parts = [f"{name} {points:.1f}" for name, points in found.helps.items()]
    return f" Alone, {', '.join(parts)}; all weights {found.by_weights.value:.1f}." if parts else ""


class PairAccount(Account):
    """Pairs that are found no more, against the pretrained model.

    :param score: what the score is called.
    :param mismatched: number of pairs that are clearly wrong.
    :param chance: mean score of guessing, in [0, 1].
    """

    before_is = "pretrained"
    amendment = "re-match the pairs"
    amends = "mismatched pairs"
    spread = "erosion"
    samples = "pairs"

    def __init__(self, score: str, mismatched: int, chance: float) -> None:
        self.score, self._mismatched, self._chance = score, mismatched, chance

    def unexplained(self, lost: bool, before: Estimate, trained: Estimate) -> bool:
        """Whether neither model knows the pairs."""
        return max(before.low, trained.low) <= 300 * self._chance

    def nothing(self, found: Finding) -> str:
        return f"On these pairs nothing was lost that can be told from chance ({found.lost.value:.1f} points)."

    def cannot(self, found: Finding) -> str:
        return (
            f"The pretrained model itself does not know these pairs (R@1 {found.before.value:.1f}, by chance "
            f"{100 * self._chance:.1f}), nor does the trained one, so nothing that is put back can help: they may all "
            "be mismatched, or of a kind that it never saw."
        )

    def amended(self, found: Finding, lost: str, all_but: str) -> str:
        return (
            f"{self._wrong(found)} and another clearly right: with these dealt out anew, {all_but} of the "
            f"{found.lost.value:.1f} points are there again, whatever the weights."
        )

    def besides(self, found: Finding) -> str:
        if found.second == self.amends:
            return f" Besides, {self._wrong(found)}."
        if found.second is not None:
            return f" Of the pairs that are right, training lost {found.left.value:.1f} points on top ({found.second})."
        return ""

    def _wrong(self, found: Finding) -> str:
        return (
            f"{self._mismatched} of {found.samples} pairs carry a caption that the pretrained model finds clearly wrong"
        )


class TaskAccount(Account):
    """Test pictures of earlier tasks that are answered wrong by now, against the model as it was when each was trained.

    :param competition: whether other classes compete by now than did then.
    """

    score = "earlier tasks, accuracy"
    before_is = "when each was trained"
    amends = "competing classes"
    spread = "interference"
    where = " on earlier tasks since each was trained"
    samples = "pictures"

    def __init__(self, competition: bool) -> None:
        self.amendment = "let the classes of then compete" if competition else None

    def unexplained(self, lost: bool, before: Estimate, trained: Estimate) -> bool:
        """Whether anything was lost at all."""
        return lost

    def nothing(self, found: Finding) -> str:
        return f"On earlier tasks nothing was lost that can be told from chance ({found.lost.value:.1f} points)."

    def cannot(self, found: Finding) -> str:
        return (
            f"Of {found.lost.value:.1f} points lost{self.where}, putting all weights back brings back "
            f"{found.by_weights.value:.1f}: the loss is not in weights that were there then, but in what has come "
            "since (tasks that a router knows, classes of a head), which is not taken away."
        )

    def amended(self, found: Finding, lost: str, all_but: str) -> str:
        return (
            f"{lost}, {found.amended.value:.1f} come back when only those classes compete that did then, whatever the "
            "weights."
        )

    def besides(self, found: Finding) -> str:
        said = ""
        if found.second == self.amends:
            said = f" Besides, {found.amended.value:.1f} points come of classes that compete by now and did not then."
        elif found.second is not None:
            said = f" Among the classes of then, all weights together bring back {found.by_weights.value:.1f} points."
        if found.rest.low > 0 and found.rest.value >= 1:
            said += (
                f" Another {found.rest.value:.1f} are in what has come since (tasks that a router knows, classes of a "
                "head), which is not taken away."
            )
        return said
