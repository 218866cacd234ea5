"""What guessing comes to on a stream's test sets, and whether scores are above it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avalanche_vlm.evaluation.binomial import binomial_interval
from avalanche_vlm.evaluation.declaration import found_at, number
from avalanche_vlm.evaluation.variants import row_names
from avalanche_vlm.units import one_line

if TYPE_CHECKING:  # reports read results here, and wait for no torch
    from avalanche_vlm.benchmarks.scenario import VLMBenchmark


@dataclass(frozen=True)
class Guess:
    """What guessing comes to on a task.

    :param classes: number of classes that compete for its test samples when the stream has been trained, the largest
        where samples differ; of an image-text task, of different captions.
    :param samples: number of its test samples.
    :param level: expected score in [0, 1] of the better of two guesses: any competing class alike, and always the
        class that is the most frequent.
    :param alone: rows of the performance matrix in which one class alone competes for the samples, 0 for the pretrained
        model; under the label space ``seen`` there may be some before the end.
    """

    classes: int
    samples: int
    level: float
    alone: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, the level in percent, as ``result.json`` has it; ``alone`` where there are such rows."""
        found = {"classes": self.classes, "samples": self.samples, "level": round(100 * self.level, 4)}
        return {**found, "alone": list(self.alone)} if self.alone else found


def guesses(benchmark: VLMBenchmark) -> list[Guess]:
    """What guessing comes to on every task of a stream.

    Where the sample's task says which classes compete, whoever guesses may know the most frequent class of each task;
    where all compete, only one for all tasks. Of image-text tasks it is what retrieval scores in the mean if answers
    are drawn (:func:`guessed_pairs`).

    :param benchmark: the stream, of whose data sets labels alone are read.
    """
    if benchmark.label_space is None:
        return [guessed_pairs([int(y) for y in experience.dataset.targets]) for experience in benchmark.test_stream]
    competing = _competing(benchmark)
    samples = [
        list(zip(map(int, experience.dataset.targets), map(int, experience.dataset.targets_task_labels), strict=True))
        for experience in benchmark.test_stream
    ]
    drawn = [sum(1 / competing[label] for _, label in of) / len(of) for of in samples]
    most = [max(competing[label] for _, label in of) for of in samples]
    if benchmark.label_space.visible == "task":
        best = [max(one, _most_frequent(of) / len(of)) for one, of in zip(drawn, samples, strict=True)]
    else:
        shares: dict[int, float] = {}
        for of in samples:
            for y, n in Counter(y for y, _ in of).items():
                shares[y] = shares.get(y, 0.0) + n / len(of) / len(samples)
        common = max(shares.values())
        best = [common] * len(samples) if common > sum(drawn) / len(drawn) else drawn
    alone: list[list[int]] = [[] for _ in samples]
    for row in range(len(benchmark.train_stream) + 1):
        then = _competing(benchmark, row)
        for rows, of in zip(alone, samples, strict=True):
            if all(then[label] == 1 for _, label in of):
                rows.append(row)
    return [
        Guess(n, len(of), value, tuple(rows)) for n, of, value, rows in zip(most, samples, best, alone, strict=True)
    ]


def _most_frequent(samples: Sequence[tuple[int, int]]) -> int:
    """Samples that are of the most frequent class under their task label."""
    of_label: dict[int, Counter[int]] = {}
    for y, label in samples:
        of_label.setdefault(label, Counter())[y] += 1
    return sum(max(of.values()) for of in of_label.values())


def _competing(benchmark: VLMBenchmark, row: int | None = None) -> dict[int, int]:
    """How many classes compete for a test sample, by its task label, in a row of the performance matrix; None for the
    end of the stream."""
    from avalanche_vlm.benchmarks.experiences import classes_of, task_labels_of

    space, labels = benchmark.label_space, {t for e in benchmark.test_stream for t in task_labels_of(e)}
    assert space is not None
    own = {label: set(space.tasks[label]) if label < len(space.tasks) else set() for label in labels}
    if space.visible == "task":
        return {label: len(classes) for label, classes in own.items()}
    if space.visible == "union":
        return dict.fromkeys(labels, len(space))
    so_far = list(benchmark.train_stream)[:row]
    trained = {y for experience in so_far for y in classes_of(experience)}
    met = {t for experience in so_far for t in task_labels_of(experience)}
    return {label: len(trained if label in met else trained | own[label]) for label in labels}


def guessed_pairs(ids: Sequence[int]) -> Guess:
    """What guessing comes to among pairs: the mean of hit@1 of both directions, as
    :func:`~avalanche_vlm.evaluation.retrieval.pair_retrieval` counts it, if every answer is drawn.

    An image is answered by any of its captions, whichever rows they stand in, and counts once; a caption is answered by
    the images that have it, among all different images.

    :param ids: identities of the pairs (:mod:`~avalanche_vlm.losses.identity`).

    >>> guessed_pairs([1, 2, 3, 4]).level, guessed_pairs([1 << 32 | 1, 1 << 32 | 2, 2 << 32 | 3, 2 << 32 | 4]).level
    (0.25, 0.5)
    """
    from avalanche_vlm.losses.identity import BITS

    rows = [(y >> BITS or -1 - row, y & ((1 << BITS) - 1)) for row, y in enumerate(ids)]
    times = Counter(caption for _, caption in rows)
    of_image: dict[int, set[int]] = {}
    for image, caption in rows:
        of_image.setdefault(image, set()).add(caption)
    images = Counter(caption for captions in of_image.values() for caption in captions)
    to_texts = sum(sum(times[caption] for caption in captions) for captions in of_image.values())
    to_images = sum(images[caption] for _, caption in rows)
    return Guess(len(times), len(rows), (to_texts + to_images) / (2 * len(rows) * len(of_image)))


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
        rows = found_at(of, "alone")
        alone = [number(row) for row in rows] if isinstance(rows, list) else []
        found.append(Guess(int(classes), int(samples), percent / 100, tuple(int(r) for r in alone if r is not None)))
    return found


def remarks(results: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> list[str]:
    """What must be said of results whose scores guessing could have brought, a sentence each.

    :param results: what ``result.json`` holds, of recipes and seeds on one stream.
    :param names: what each is called, alike for those that differ in nothing but the seed; None for the names of their
        recipes and of what tells these apart.
    :return: tasks on which every answer is right; recipes that end at chance; tasks on which all of them do.
    """
    rows = row_names(results) if names is None else names
    called = [
        (name, (result, of))
        for name, result in zip(rows, results, strict=True)
        if (of := guesses_of(result)) and result.get("matrix")
    ]
    if not called:
        return []
    known = [of for _, of in called]
    protocol = known[0][0]["protocol"]
    found = certain(known[0][0]["tasks"], known[0][1], "label_space" in protocol and protocol["label_space"] is None)
    by_recipe: dict[str, list[Verdict | None]] = {}
    for name, (result, of) in called:
        by_recipe.setdefault(name, []).append(verdict(_at_the_end(result), of))
    low = {name: of[0] for name, of in by_recipe.items() if all(v is not None and v.at_chance for v in of)}
    if low and len(low) == len(by_recipe) > 1:
        best = max((v for of in by_recipe.values() for v in of if v), key=lambda v: v.share)
        found.append(f"No recipe ends above chance, as far as the test samples tell: the best has {best}.")
    else:
        found += [f"{name} ends at chance, as far as the test samples tell: {v}." for name, v in low.items()]
    if len(low) < len(by_recipe):
        found += _tasks_at_chance(known)
    return found


def certain(tasks: Sequence[str], of: Sequence[Guess], pairs: bool = False) -> list[str]:
    """Sentences on the tasks on which no answer can be wrong, at the end or in rows before it; none where there are
    none.

    :param tasks: names of the tasks.
    :param of: what guessing comes to on each.
    :param pairs: whether they are image-text tasks.

    >>> certain(["cats", "pets"], [Guess(1, 20, 1.0), Guess(2, 20, 0.5)])
    ['One class alone competes on cats: every answer is right, and a score of 100 says nothing.']
    """
    sure = [name for name, guess in zip(tasks, of, strict=True) if guess.level >= 1]
    if pairs:
        shared = f"All test pairs of {_listed(sure)} share one caption or one picture"
        return [f"{shared}: every answer is right, and a score of 100 says nothing."] if sure else []
    alone = [name for name, guess in zip(tasks, of, strict=True) if guess.classes == 1]
    one = [name for name in sure if name not in alone]
    found = []
    if alone:
        found.append(
            f"One class alone competes on {_listed(alone)}: every answer is right, and a score of 100 says nothing."
        )
    early = [
        f"{name} (row{'s' * (len(guess.alone) > 1)} {', '.join(map(str, guess.alone))})"
        for name, guess in zip(map(one_line, tasks), of, strict=True)
        if guess.alone and guess.classes > 1
    ]
    if early:
        found.append(
            f"Before the end, one class alone competes on {_listed(early)}, where row 0 is the pretrained model: every "
            "answer is right there, and neither a score of 100 nor what is computed from it (transfer, forgetting, "
            "BWT) says anything."
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
    shown = ", ".join(map(one_line, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
