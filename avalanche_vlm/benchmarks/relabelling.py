"""Which task the samples of an Avalanche benchmark belong to."""

from __future__ import annotations

from collections.abc import Iterable
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
    """

    dataset: AvalancheDataset
    targets: list[int]
    labels: list[int]

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
    :raises InputError: if the test stream has nothing for one.
    """
    parts = streams["test"]
    whole = parts[0].dataset if len(parts) == 1 else AvalancheDataset([part.dataset for part in parts])
    targets = [y for part in parts for y in part.targets]
    labels = [label for part in parts for label in part.labels]
    divided = []
    for number, part in enumerate(streams["train"]):
        classes, tasks = set(part.targets), set(part.labels)
        rows = [i for i, y in enumerate(targets) if y in classes and (not given or labels[i] in tasks)]
        if not rows:
            raise InputError(f"the test stream has no samples of the classes of training experience {number}")
        row = [labels[i] if given else number for i in rows]
        divided.append(Samples(whole.subset(rows), [targets[i] for i in rows], row))
    return divided
