"""What guessing comes to on a stream's test sets, and whether scores are above it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avalanche_vlm.evaluation.binomial import binomial_interval
from avalanche_vlm.evaluation.declaration import found_at, number

if TYPE_CHECKING:  # reports read results here, and wait for no torch
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark


@dataclass(frozen=True)
class Guess:
    """What guessing comes to on a task.

    :param classes: number of classes that compete for its test samples when the stream has been trained; of an
        image-text task, of different captions.
    :param samples: number of its test samples.
    :param level: expected score in [0, 1] of the better of two guesses: any competing class alike, and always the
        class that is the most frequent.
    """

    classes: int
    samples: int
    level: float

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, the level in percent, as ``result.json`` has it."""
        return {"classes": self.classes, "samples": self.samples, "level": round(100 * self.level, 4)}


def guesses(benchmark: VLMBenchmark) -> list[Guess]:
    """What guessing comes to on every task of a stream.

    Where the sample's task says which classes compete, whoever guesses may know the most frequent class of each task;
    where all compete, only one for all tasks. Of image-text tasks it is the score of a picture drawn for a caption
    among all of the task's.

    :param benchmark: the stream, of whose test sets labels alone are read.
    """
    labels = [Counter(int(y) for y in experience.dataset.targets) for experience in benchmark.test_stream]
    space = benchmark.label_space
    if space is None:
        return [Guess(len(of), of.total(), sum(n * n for n in of.values()) / of.total() ** 2) for of in labels]
    if space.visible == "task":
        tasks = [int(experience.dataset.targets_task_labels[0]) for experience in benchmark.test_stream]
        competing = [len(space.tasks[task]) for task in tasks]
        return [Guess(n, of.total(), level(of, n)) for of, n in zip(labels, competing, strict=True)]
    shares = dict.fromkeys(range(len(space)), 0.0)
    for of in labels:
        for y, n in of.items():
            shares[y] += n / of.total() / len(labels)
    common = max(1 / len(space), *shares.values())
    return [Guess(len(space), of.total(), common) for of in labels]


def level(labels: Mapping[Any, int], competing: int) -> float:
    """The share of right answers of the better of two guesses, in [0, 1].

    :param labels: number of samples by class.
    :param competing: number of classes that a guess has to choose among, at least 1.

    >>> level({"cat": 5, "dog": 5}, 4), level({"cat": 9, "dog": 1}, 4)
    (0.5, 0.9)
    """
    return max(1 / competing, max(labels.values()) / sum(labels.values()))


@dataclass(frozen=True)
class Verdict:
    """Whether scores are above what guessing comes to, over all tasks on which that can be told.

    :param share: share of right answers over the test samples of those tasks, in [0, 1].
    :param low: lower bound of its interval.
    :param high: upper bound of its interval.
    :param guessed: share that guessing comes to.
    :param samples: number of the test samples.
    """

    share: float
    low: float
    high: float
    guessed: float
    samples: int

    @property
    def at_chance(self) -> bool:
        """Whether the scores do not exclude that all answers were guessed."""
        return self.low <= self.guessed

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % of {self.samples} test samples right (95 % interval {100 * self.low:.1f} to "
            f"{100 * self.high:.1f}), where guessing comes to {100 * self.guessed:.1f} %"
        )


def verdict(scores: Sequence[float | None], of: Sequence[Guess]) -> Verdict | None:
    """Scores against guessing.

    The interval is that of as many answers with one chance of being right: where chances differ between tasks the true
    one is narrower (Hoeffding, "On the distribution of the number of successes in independent trials", Annals of
    Mathematical Statistics 27, 1956), so "above chance" is never said too soon.

    :param scores: score per task in [0, 1], None for a missing one.
    :param of: what guessing comes to, per task.
    :return: the verdict; None without a score on a task where an answer can be wrong.
    """
    told = [(s, g) for s, g in zip(scores, of, strict=True) if s is not None and s == s and g.level < 1]
    samples = sum(g.samples for _, g in told)
    if not samples:
        return None
    right = sum(s * g.samples for s, g in told)
    guessed = sum(g.level * g.samples for _, g in told) / samples
    return Verdict(right / samples, *binomial_interval(min(right, samples), samples), guessed, samples)


def guesses_of(result: Mapping[str, Any]) -> list[Guess] | None:
    """What guessing comes to, as a result holds it; None for a result without, of an older version for instance.

    :param result: what ``result.json`` holds.
    """
    stored, found = result.get("chance"), []
    if not isinstance(stored, list) or len(stored) != len(result["tasks"]):
        return None
    for of in stored:
        classes, samples, percent = (number(found_at(of, key)) for key in ("classes", "samples", "level"))
        if classes is None or samples is None or percent is None or samples < 1:
            return None
        found.append(Guess(int(classes), int(samples), percent / 100))
    return found


def remarks(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What must be said of results whose scores guessing could have brought, a sentence each.

    :param results: what ``result.json`` holds, of recipes and seeds on one stream.
    :return: tasks on which every answer is right; recipes that end at chance; tasks on which all of them do.
    """
    known = [(result, of) for result in results if (of := guesses_of(result)) and result.get("matrix")]
    if not known:
        return []
    found = certain(known[0][0]["tasks"], known[0][1])
    by_recipe: dict[str, list[Verdict | None]] = {}
    for result, of in known:
        by_recipe.setdefault(result["protocol"]["recipe"], []).append(verdict(_at_the_end(result), of))
    low = {name: of[0] for name, of in by_recipe.items() if all(v is not None and v.at_chance for v in of)}
    if low and len(low) == len(by_recipe) > 1:
        best = max((v for of in by_recipe.values() for v in of if v), key=lambda v: v.share)
        found.append(f"No recipe ends above chance, as far as the test samples tell: the best has {best}.")
    else:
        found += [f"{name} ends at chance, as far as the test samples tell: {v}." for name, v in low.items()]
    if len(low) < len(by_recipe):
        found += _tasks_at_chance(known)
    return found


def certain(tasks: Sequence[str], of: Sequence[Guess]) -> list[str]:
    """A sentence on the tasks on which no answer can be wrong; none where there are none.

    :param tasks: names of the tasks.
    :param of: what guessing comes to on each.

    >>> certain(["cats", "pets"], [Guess(1, 20, 1.0), Guess(2, 20, 0.5)])
    ['One class alone competes on cats: every answer is right, and a score of 100 says nothing.']
    """
    alone = [name for name, guess in zip(tasks, of, strict=True) if guess.classes == 1]
    one = [name for name, guess in zip(tasks, of, strict=True) if guess.classes > 1 and guess.level >= 1]
    found = []
    if alone:
        found.append(
            f"One class alone competes on {_listed(alone)}: every answer is right, and a score of 100 says nothing."
        )
    if one:
        found.append(f"All test samples of {_listed(one)} are of one class: whoever always answers with it has 100.")
    return found


def _tasks_at_chance(known: Sequence[tuple[Mapping[str, Any], list[Guess]]]) -> list[str]:
    """Tasks on which no result is above chance, each for itself."""
    tasks, of = known[0][0]["tasks"], known[0][1]
    low = []
    for task, name in enumerate(tasks):
        each = [verdict([_at_the_end(result)[task]], [guessed[task]]) for result, guessed in known]
        if all(v is not None and v.at_chance for v in each):
            low.append(f"{name} ({100 * of[task].level:.1f} %)")
    if not low:
        return []
    return [f"The test samples tell no recipe from guessing on {_listed(low)}."]


def _at_the_end(result: Mapping[str, Any]) -> list[float | None]:
    return [None if (v := number(value)) is None else v / 100 for value in result["matrix"][-1]]


def _listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a sentence; of many the first, and how many more there are."""
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
