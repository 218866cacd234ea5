"""Which task the samples of an Avalanche benchmark belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from avalanche.benchmarks.utils import AvalancheDataset

from avalanche_vlm.errors import InputError


@dataclass(frozen=True)
class Samples:
    """The data of an experience.

    :param dataset: samples as they are, which nothing here reads.
    :param targets: class ids of the samples.
    :param labels: task labels of the samples, as far as they are known.
    :param renumbered: whether the targets are other ones than those that the data set gives with its samples.
    """

    dataset: AvalancheDataset
    targets: list[int]
    labels: list[int]
    renumbered: bool = False

    def __len__(self) -> int:
        return len(self.targets)


SamplesByStream = dict[str, list[Samples]]
"""The experiences of all streams, by the name of the stream."""


@dataclass(frozen=True)
class Tasks:
    """The tasks of a benchmark.

    :param number: how many there are, one for what no training experience has included where there is such.
    :param given: whether the benchmark has them of itself.
    """

    number: int
    given: bool


def parts_of(stream: str, experiences: Iterable[Any]) -> list[Samples]:
    """The data of a stream.

    :param stream: name of the stream, for messages.
    :param experiences: experiences of the stream.
    :return: their data, with the task labels that they have, or 0.
    :raises InputError: if a data set has no targets.
    """
    parts = []
    for number, experience in enumerate(experiences):
        dataset = getattr(experience, "dataset", None)
        if not isinstance(dataset, AvalancheDataset) or getattr(dataset, "targets", None) is None:
            raise InputError(
                f"experience {number} of stream {stream!r} has no targets: make its data set with Avalanche's "
                "as_classification_dataset"
            )
        targets = [int(y) for y in dataset.targets]
        labels = getattr(dataset, "targets_task_labels", None)
        parts.append(Samples(dataset, targets, [int(t) for t in labels] if labels is not None else [0] * len(targets)))
    return parts


def original_ids(benchmark: Any, streams: SamplesByStream) -> str | None:
    """Undo the numbering that a benchmark has given its classes, where it knows the ids that the data set has.

    ``nc_benchmark`` numbers classes from 0 in every experience (``class_ids_from_zero_in_each_exp``) or in the order
    in which they come (``class_ids_from_zero_from_first_exp``); names are in the order of the data set's own ids.

    :param benchmark: the benchmark, which knows its ``class_mapping`` and ``original_classes_in_exp`` or does not.
    :param streams: streams of the benchmark, whose class ids are written anew.
    :return: a sentence on what was undone; None where nothing was.
    """
    mapping, members = (getattr(benchmark, name, None) for name in ("class_mapping", "original_classes_in_exp"))
    if not mapping or not members or all(new in (-1, old) for old, new in enumerate(mapping)):
        return None
    inverse = [{int(mapping[old]): int(old) for old in of} for of in members]
    renumbered: SamplesByStream = {}
    for stream, parts in streams.items():
        if len(parts) == len(inverse):
            undo = inverse
        elif len(known := {new: old for ids in inverse for new, old in ids.items()}) == sum(map(len, inverse)):
            undo = [known] * len(parts)  # a test set of all experiences
        else:
            return None
        if any(not undo[i].keys() >= set(part.targets) for i, part in enumerate(parts)):
            return None
        renumbered[stream] = [
            replace(part, targets=[undo[i][y] for y in part.targets], renumbered=True) for i, part in enumerate(parts)
        ]
    streams.update(renumbered)
    old, new = next((old, new) for old, new in enumerate(mapping) if new not in (-1, old))
    return (
        "the benchmark has numbered its classes anew, which is undone: class names are in the order of the ids of the "
        f"data set (its class {old} is {new} there)"
    )


def matched(streams: SamplesByStream, given: bool) -> list[str]:
    """Bring the experiences of the other streams into the order of the training experiences, by their classes.

    An experience that holds nothing but classes of the training experience of the same number stays. Otherwise each
    goes to the training experience that has the same classes, or whose classes alone include them.

    :param streams: streams of the benchmark, whose experiences are put in another order.
    :param given: whether task labels are the benchmark's own: they count beside the classes then.
    :return: a sentence on each stream that came in another order.
    """

    def held(part: Samples) -> frozenset:
        return frozenset(zip(part.labels, part.targets, strict=True) if given else part.targets)

    trained, said = [held(part) for part in streams["train"]], []
    for stream, parts in streams.items():
        others = [held(part) for part in parts]
        if len(parts) != len(trained) or all(a >= b for a, b in zip(trained, others, strict=True)):
            continue
        order = _same(trained, others) or _within(trained, others)
        if order:
            streams[stream] = [parts[i] for i in order]
            said.append(
                f"the {stream} stream has its experiences in another order than the train stream: they are matched by "
                f"their classes, in the order {', '.join(map(str, order))}"
            )
    return said


def _same(trained: Sequence[frozenset], others: Sequence[frozenset]) -> list[int] | None:
    """For each training experience the number of one with the same classes, None where one lacks it."""
    order: list[int] = []
    for wanted in trained:
        number = next((i for i, held in enumerate(others) if held == wanted and i not in order), None)
        if number is None:
            return None
        order.append(number)
    return order


def _within(trained: Sequence[frozenset], others: Sequence[frozenset]) -> list[int] | None:
    """For each training experience the number of the one whose classes it includes, None where that is not clear."""
    fitting = [[i for i, held in enumerate(others) if held and held <= wanted] for wanted in trained]
    clear = all(len(of) == 1 for of in fitting) and len({of[0] for of in fitting}) == len(trained)
    return [of[0] for of in fitting] if clear else None


def tested_elsewhere(streams: SamplesByStream, given: bool) -> bool:
    """Whether some test experience has nothing of what the training experience of its number trains.

    :param streams: streams of the benchmark.
    :param given: whether task labels are the benchmark's own, and count beside the classes.
    """
    for trained, tested in zip(streams["train"], streams["test"], strict=True):
        if set(trained.targets).isdisjoint(tested.targets):
            return True
        if given and set(trained.labels).isdisjoint(tested.labels):
            return True
    return False


def own_labels(streams: SamplesByStream) -> Tasks | None:
    """Number the task labels that a benchmark has of itself, from 0 in their order.

    :param streams: streams of the benchmark, whose labels are written anew.
    :return: the tasks; None where the training experiences all have the same label.
    """
    trained = {label for part in streams["train"] for label in part.labels}
    if len(trained) < 2:
        return None
    numbers = {label: number for number, label in enumerate(sorted(trained))}
    others = {label for parts in streams.values() for part in parts for label in part.labels} - trained
    numbers |= {label: len(trained) for label in others}
    for stream, parts in streams.items():
        streams[stream] = [replace(part, labels=[numbers[label] for label in part.labels]) for part in parts]
    return Tasks(len(trained) + bool(others), given=True)


def label_per_experience(streams: SamplesByStream) -> Tasks:
    """Make every training experience a task of its own.

    The experience of another stream that has the same number and no other classes belongs to it. The samples of any
    other experience belong to the first task that trains their class; those of a class that none trains to one more.

    :param streams: streams of the benchmark, whose labels are written anew.
    :return: the number of tasks, which are not the benchmark's own.
    """
    classes = [set(part.targets) for part in streams["train"]]
    beyond = len(classes)
    first = {y: task for task in reversed(range(beyond)) for y in classes[task]}
    for stream, parts in streams.items():
        streams[stream] = [
            replace(part, labels=[task] * len(part))
            if len(parts) == beyond and classes[task].issuperset(part.targets)
            else replace(part, labels=[first.get(y, beyond) for y in part.targets])
            for task, part in enumerate(parts)
        ]
    used = any(beyond in part.labels for parts in streams.values() for part in parts)
    return Tasks(beyond + used, given=False)


def test_per_experience(streams: SamplesByStream, given: bool) -> list[Samples]:
    """What the test stream holds of the classes of each training experience.

    :param streams: streams of the benchmark.
    :param given: whether task labels are the benchmark's own: the samples are those of the experience's labels then,
        and keep theirs; else they have that of the experience.
    :return: a test experience for each training experience.
    :raises InputError: if the test stream has nothing for one, or one has no samples itself.
    """
    parts = streams["test"]
    whole = parts[0].dataset if len(parts) == 1 else AvalancheDataset([part.dataset for part in parts])
    targets = [y for part in parts for y in part.targets]
    labels = [label for part in parts for label in part.labels]
    renumbered = any(part.renumbered for part in parts)
    divided = []
    for number, part in enumerate(streams["train"]):
        classes, tasks = set(part.targets), set(part.labels)
        rows = [i for i, y in enumerate(targets) if y in classes and (not given or labels[i] in tasks)]
        if not part.targets:
            raise InputError(f"training experience {number} has no samples")
        if not rows:
            raise InputError(f"the test stream has no samples of the classes of training experience {number}")
        row = [labels[i] if given else number for i in rows]
        divided.append(Samples(whole.subset(rows), [targets[i] for i in rows], row, renumbered))
    return divided
