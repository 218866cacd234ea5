"""Successive halving under a budget of time: many recipes on few data, the best half on more, and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.advice.constraints import Constraints
from avalanche_vlm.studies.advice.pilot import Pilot
from avalanche_vlm.studies.parallel import Failure
from avalanche_vlm.units import percent

ROUNDS = 3
PLANNED = 2
"""Rounds that have to end in time. Fewer rounds on more data rank better: on few data recipes have few steps, in which
fine-tuning does little damage and modules learn little."""
KEEP = 2
"""One in so many goes on, at least two."""
CHEAP = 1 / 40
"""Share of the budget below which a pilot was so cheap that the recipe goes on whatever its score: what is fitted in
closed form takes seconds, and needs data more than what starts from trained weights."""
SAFETY = 0.9
"""Share of the budget that is planned with."""
USUAL = 1.2
"""What a recipe takes against fine-tuning, before it was seen."""
PATIENCE = 4
"""How many times as long as was thought a pilot may take, lest one recipe eats the time of all others."""
ALWAYS = 1 / 20
"""Of the time that is left, what every pilot may take: where there is plenty, a machine that stalls breaks none off."""
TIME_IS_UP = "the time was up"


class OutOfTime(Exception):
    """A pilot was broken off since the budget is spent."""


@dataclass(frozen=True)
class Trial:
    """A pilot that is to be tried.

    :param recipe: name of the recipe.
    :param share: share of the training data, in (0, 1].
    :param estimate: seconds that it will take, by those before it; 0 where nothing was seen.
    :param known: whether it was run before, so that it is taken whatever the time.
    """

    recipe: str
    share: float
    estimate: float
    known: bool = False


@dataclass(frozen=True)
class Tried:
    """What came of a pilot.

    :param pilot: the pilot; None if there is none.
    :param why: the reason why there is none.
    :param late: whether the time of all pilots was up, or too short for it.
    :param failure: what has ended it; None where it ended or the time was up.
    """

    pilot: Pilot | None = None
    why: str = ""
    late: bool = False
    failure: Failure | None = None

    @classmethod
    def failed(cls, failure: Failure) -> Tried:
        """What came of a pilot that something has ended.

        :param failure: what has ended it.
        """
        return cls(why=failure.sentence, failure=failure)


def not_run(trial: Trial, why: str) -> str:
    """That a pilot did not begin, in words.

    :param trial: the pilot that was not begun.
    :param why: the reason, as it ends a sentence.
    """
    return f"not run on {percent(trial.share)} of the data: {why}"


def attempt(
    trial: Trial, pilot: Callable[[str, float, float], Pilot], deadline: float, clock: Callable[[], float]
) -> Tried:
    """Run a pilot if it will end in time; whatever else keeps it from its end is told, and stops no other.

    :param trial: the pilot that is tried.
    :param pilot: runs it as :class:`Halving` says.
    :param deadline: time on the clock at which it must have ended.
    :param clock: tells the time in seconds.
    """
    left = deadline - clock()
    if not trial.known and (left <= 0 or trial.estimate > left):
        why = f"it takes about {trial.estimate / left:.1f} times what was left of the time" if left > 0 else TIME_IS_UP
        return Tried(why=not_run(trial, why), late=True)
    allowed = max(PATIENCE * trial.estimate, ALWAYS * left)
    limit = min(deadline, clock() + allowed) if trial.estimate else deadline
    try:
        return Tried(pilot(trial.recipe, trial.share, limit))
    except OutOfTime:
        late = limit == deadline
        why = TIME_IS_UP if late else f"it takes more than {PATIENCE} times as long as was planned"
        return Tried(why=f"broken off on {percent(trial.share)} of the data: {why}", late=late)
    except Exception as error:
        return Tried.failed(Failure.of(error))


@dataclass
class Round:
    """Recipes on the same share of the data.

    :param share: share of the data that every pilot trained on, in (0, 1].
    :param pilots: pilots by recipe, in the order in which they ran.
    :param dropped: recipes that do not go on, and why.
    :param complete: all that were to run did, but for those that cannot or take far too long.
    :param carried_on: Last is not as measured but as it is expected on all data.
    """

    share: float
    pilots: dict[str, Pilot] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    carried_on: bool = False


@dataclass
class Halving:
    """Jamieson and Talwalkar's successive halving (arXiv 1502.07943) with the share of the data as the resource.

    The first pilot, of ``baseline`` on the smallest share, tells how much can be afforded: the first round gets the
    largest share of ``shares`` with which two rounds end in time. What a pilot will take is estimated from those
    before; one that would not end in time is not begun, and one that takes longer is broken off.

    :param pilot: ``(recipe, share, deadline) -> Pilot``; raises :class:`OutOfTime` past the deadline, and InputError
        for a recipe that cannot run.
    :param shares: shares of the data that may be taken, ascending.
    :param constraints: what a recipe must not cost.
    :param seconds: the budget, in the unit of the clock.
    :param clock: tells the time.
    :param cost: cost of training on a share of the data, in any unit: what is seen on one is scaled to another by it.
    :param baseline: recipe that the others are compared with: part of the first round, and of others if it is good
        enough.
    :param begun: time on the clock at which the budget began; None for the start of :meth:`run`.
    :param known: says by recipe and share whether a pilot was run before, so that it is taken whatever the time.
    :param jobs: pilots that run at once: what can be afforded is planned for so many.
    :param together: ``(trials, deadline) -> (recipe, tried) in any order``: runs the pilots of a round that were not
        run before, ``jobs`` at once, each as :func:`attempt` does, beginning in their order. The time is shared by
        beginning the next whenever one has ended, while it will end in time by what earlier rounds took. None runs one
        after another.
    :param on_failure: called as ``(recipe, failure)`` with what has ended a pilot, the time aside.
    """

    pilot: Callable[[str, float, float], Pilot]
    shares: Sequence[float]
    constraints: Constraints
    seconds: float
    clock: Callable[[], float]
    cost: Callable[[float], float] = float
    baseline: str = "fine-tune"
    begun: float | None = None
    known: Callable[[str, float], bool] = lambda recipe, share: False
    jobs: int = 1
    together: Callable[[Sequence[Trial], float], Iterable[tuple[str, Tried]]] | None = None
    on_failure: Callable[[str, Failure], None] = lambda recipe, failure: None
    rounds: list[Round] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)
    """Recipes, and why they did not run, or not on: no time, or an error."""

    def run(self, recipes: Sequence[str]) -> list[Round]:
        """All rounds; what there is when time is up.

        :param recipes: beside the baseline, which is tried first.
        :raises InputError: if there was no time for a single pilot, or none could run.
        """
        self._deadline = (self.clock() if self.begun is None else self.begun) + self.seconds
        self._seconds: dict[str, dict[float, float]] = {}
        self._trained: dict[str, dict[float, float]] = {}
        recipes = [self.baseline, *(name for name in recipes if name != self.baseline)]
        smallest = Round(self.shares[0])
        self._try(smallest, [self.baseline])
        first = self._affordable(smallest, len(recipes))
        for share in self.shares[first : first + ROUNDS]:
            round = smallest if share == smallest.share else Round(share)
            self.rounds.append(round)
            self._try(round, [name for name in recipes if name not in round.pilots])
            if not round.pilots:
                self.rounds.pop()
                break
            recipes = self._best(round, len(recipes))
            if len(recipes) < 2 or not round.complete:
                break
        if not self.rounds:
            why = self.not_run[self.baseline]
            hint = ": allow more minutes" if why.endswith(TIME_IS_UP) else ""
            raise InputError(f"not a single pilot could be run ({self.baseline}: {why}){hint}")
        return self.rounds

    def _affordable(self, smallest: Round, recipes: int) -> int:
        """Index of the share of the first round.

        :param smallest: the baseline on the smallest share, if it could run.
        """
        if self.baseline not in smallest.pilots:
            return 0
        taken = smallest.pilots[self.baseline].seconds
        affordable = 0
        for index in range(len(self.shares)):
            later = self.shares[index : index + PLANNED]
            counts = [max(2, recipes // KEEP**step) for step in range(len(later))]
            planned = sum(
                n * USUAL * taken * self.cost(s) / self.cost(self.shares[0]) / min(n, self.jobs)
                for n, s in zip(counts, later, strict=True)
            )
            if planned <= SAFETY * self.seconds:
                affordable = index
        return affordable

    def _try(self, round: Round, names: Sequence[str]) -> None:
        """Have pilots run, one after another or several at once."""
        together: list[Trial] = []
        for name in names:
            trial = Trial(name, round.share, self.estimate(name, round.share), self.known(name, round.share))
            if self.together is None or trial.known:
                self._note(round, name, attempt(trial, self.pilot, self._deadline, self.clock))
            else:
                together.append(trial)
        if together and self.together is not None:
            for name, tried in self.together(together, self._deadline):
                self._note(round, name, tried)
            round.pilots = {name: round.pilots[name] for name in [self.baseline, *names] if name in round.pilots}

    def _note(self, round: Round, name: str, tried: Tried) -> None:
        round.complete &= not tried.late
        if tried.pilot is None:
            self.not_run[name] = tried.why
            if tried.failure is not None:
                self.on_failure(name, tried.failure)
            return
        round.pilots[name] = tried.pilot
        self._seconds.setdefault(name, {})[round.share] = tried.pilot.seconds
        self._trained.setdefault(name, {})[round.share] = tried.pilot.ledger["train_seconds"]

    def estimate(self, name: str, share: float) -> float:
        """Seconds that a pilot will take: those of its last one, by as many times more as the others took at most; by
        :attr:`cost` where there are no others. Unseen, :data:`USUAL` times the baseline."""
        seen = self._seconds.get(name) or {
            s: USUAL * seconds for s, seconds in self._seconds.get(self.baseline, {}).items()
        }
        if not seen:
            return 0.0
        nearest = min(seen, key=lambda s: abs(s - share))
        if share <= nearest:
            return seen[nearest]
        grew = [took[share] / took[nearest] for took in self._seconds.values() if share in took and took.get(nearest)]
        return seen[nearest] * max(grew, default=self.cost(share) / self.cost(nearest))

    def _best(self, round: Round, tried: int) -> list[str]:
        """Those that go on, the cheap ones first and then the best first; notes why the others do not."""
        fit = []
        for name, pilot in round.pilots.items():
            if why := self.constraints.broken_by(pilot, self.full_seconds(name)):
                round.dropped[name] = why
            else:
                fit.append(name)
        fit.sort(key=lambda name: -self.constraints.score(round.pilots[name]))
        best = fit[: max(2, -(-tried // KEEP))]
        cheap = [name for name in fit if round.pilots[name].seconds <= CHEAP * self.seconds]
        stay = [*cheap, *(name for name in best if name not in cheap)]
        for name in fit:
            if name not in stay:
                score, least = (self.constraints.score(round.pilots[n]) for n in (name, best[-1]))
                round.dropped[name] = f"its score of {score:.1f} is not among the best {len(best)} (from {least:.1f})"
        return stay

    def full_seconds(self, name: str) -> float:
        """Seconds of training on all data, by the :attr:`cost` of the largest share that was seen."""
        share, seconds = max(self._trained[name].items())
        return seconds * self.cost(1.0) / self.cost(share)
