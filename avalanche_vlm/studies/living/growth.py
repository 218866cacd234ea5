"""A stream that goes on: experiences behind those that a model has learned, of which nothing but names is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
    TransformGroups,
)
from avalanche.benchmarks.utils.data_attribute import TaskLabels
from torch.utils.data import Dataset

from avalanche_vlm.benchmarks.experiences import classes_of, task_labels_of
from avalanche_vlm.benchmarks.identities import Identities
from avalanche_vlm.benchmarks.label_space import LabelSpace, PromptTemplates
from avalanche_vlm.benchmarks.places import Located, located
from avalanche_vlm.benchmarks.scenario import PairDataset, VLMBenchmark
from avalanche_vlm.compat.data_sets import transform_of, untransformed
from avalanche_vlm.errors import InputError


def continued(
    space: LabelSpace | None,
    learned: Sequence[str],
    month: VLMBenchmark,
    experiences: Sequence[int] | None = None,
    identities: Identities | None = None,
) -> VLMBenchmark:
    """The stream that a model has learned, gone on by experiences of another benchmark.

    Of the experiences that were learned no sample is there: their places in the streams are empty, so that numbers of
    experiences, task labels and class ids go on. A class whose name is known keeps its id (under the label space
    ``"task"`` every experience brings classes of its own), new ones come behind.

    :param space: classes that the model knows; None for a model of image-text pairs.
    :param learned: names of the experiences that it has learned, in order.
    :param month: benchmark with what is new, read as the model reads.
    :param experiences: which of its experiences are new, by their numbers; None for all.
    :param identities: numbers of the pictures and captions that the model has learned, extended here; None for pairs
        whose identities are numbered with those of the experiences before, as those of one benchmark are.
    :return: a benchmark with the held-out sets and resources of ``month``.
    :raises InputError: if what is new is of another kind, or an experience does not exist.
    """
    kind = "pairs" if space is None else "classes"
    if month.kind != kind:
        raise InputError(f"the model has learned a stream of {kind}, and {month.name} is one of {month.kind}")
    chosen = list(range(len(month.train_stream))) if experiences is None else list(experiences)
    for number in chosen:
        if not 0 <= number < len(month.train_stream):
            raise InputError(
                f"{month.name} has {len(month.train_stream)} experiences, numbered from 0, and none is {number}"
            )
    if not chosen:
        raise InputError(f"no experience of {month.name} is named, so there is nothing to learn")
    titles = list(learned)
    parts: dict[str, list[AvalancheDataset]] = {"train": [], "test": []}
    for index in chosen:
        title = _free(month.task_names[index], titles)
        trained = month.train_stream[index]
        ids: dict[int, int] = {}
        label = len(titles)
        if space is not None:
            members, names, templates = _classes(month, trained)
            label = len(space.tasks)
            space = space.with_task(title, names, templates)
            ids = dict(zip(members, space.tasks[-1], strict=True))
        titles.append(title)
        for stream, datasets in parts.items():
            dataset = getattr(month, f"{stream}_stream")[index].dataset
            stand_ins: dict[int, int] = {}
            if space is not None:
                targets = [_known(ids, int(y), title) for y in dataset.targets]
            elif identities is None:
                targets = [int(y) for y in dataset.targets]
            else:
                targets, stand_ins = _numbered(dataset, identities)
            datasets.append(_relabelled(dataset, targets, label, stand_ins))
    empty = {stream: [datasets[0].subset([])] * len(learned) for stream, datasets in parts.items()}
    return VLMBenchmark(
        month.name,
        kind,
        [*empty["train"], *parts["train"]],
        [*empty["test"], *parts["test"]],
        label_space=space,
        task_names=titles,
        held_out=month.held_out,
        reference=month.reference,
        generator=month.generator,
        data=month.data,
        protocol=month.protocol,
    )


def beginning(benchmark: VLMBenchmark, experiences: int) -> VLMBenchmark:
    """The first experiences of a stream, as if nobody knew of those to come: without classes that come later.

    :param benchmark: stream whose experience i has the task label i and new classes behind the earlier ones.
    :param experiences: number of the experiences, 1 or more.
    :return: a benchmark with the same held-out sets and resources.
    :raises InputError: if there are not so many, or classes of later experiences stand between those of earlier ones.
    """
    there = len(benchmark.train_stream)
    if not 1 <= experiences <= there:
        raise InputError(
            f"{benchmark.name} has {there} experiences, so its first ones are 1 to {there}, not {experiences}"
        )
    space = benchmark.label_space
    if space is not None:
        tasks = space.tasks[:experiences]
        known = {c for task in tasks for c in task}
        if known != set(range(len(known))):
            raise InputError(
                f"classes of {benchmark.name} that come later have ids below those of its first experiences"
            )
        space = replace(
            space,
            class_names=space.class_names[: len(known)],
            tasks=tasks,
            templates=space.templates if len(space.templates) == 1 else space.templates[:experiences],
            task_names=space.task_names[:experiences],
        )
    return VLMBenchmark(
        benchmark.name,
        benchmark.kind,
        [experience.dataset for experience in benchmark.train_stream[:experiences]],
        [experience.dataset for experience in benchmark.test_stream[:experiences]],
        label_space=space,
        task_names=benchmark.task_names[:experiences],
        held_out=benchmark.held_out,
        reference=benchmark.reference,
        generator=benchmark.generator,
        data=benchmark.data,
        protocol={**benchmark.protocol, "experiences": experiences},
    )


def identities_of(benchmark: VLMBenchmark) -> Identities | None:
    """Numbers of the pictures and captions of a stream of pairs, where all of its pairs are numbered together.

    :param benchmark: stream of pairs.
    :return: the numbers; None where the data sets do not tell, or each has its own.
    """
    found: list[Identities] = []
    for experience in (*benchmark.train_stream, *benchmark.test_stream):
        for source in _sources(experience.dataset):
            if not isinstance(source, PairDataset):
                return None
            if not any(source.identities is other for other in found):
                found.append(source.identities)
    return found[0] if len(found) == 1 else None


def _classes(month: VLMBenchmark, experience: Any) -> tuple[list[int], list[str], PromptTemplates]:
    """Ids, names and prompts of the classes of an experience."""
    space = month.label_space
    assert space is not None  # a stream of classes has one
    labels = task_labels_of(experience)
    members = list(space.tasks[labels[0]]) if len(labels) == 1 else classes_of(experience)
    sets = space.templates if len(space.templates) > 1 else space.templates * len(space.tasks)
    return members, [space.class_names[c] for c in members], sets[labels[0]]


def _known(ids: dict[int, int], y: int, title: str) -> int:
    if y not in ids:
        raise InputError(f"experience {title!r} has the class id {y}, which is none of its task's classes")
    return ids[y]


def _free(name: str, taken: Sequence[str]) -> str:
    return next(t for t in (name, *(f"{name} ({n})" for n in range(2, len(taken) + 3))) if t not in taken)


def _numbered(dataset: AvalancheDataset, identities: Identities) -> tuple[list[int], dict[int, int]]:
    """Identities of pairs, by the captions and pictures of the data set that they are from; and those of all pairs that
    may take the place of one whose image cannot be read, by the identities that they have there."""
    numbers: dict[int, list[int]] = {}
    found = [0] * len(dataset)
    stand_ins: dict[int, int] = {}
    for source, rows, places in located(dataset, np.arange(len(dataset))):
        if not isinstance(source, PairDataset):
            raise InputError(
                "pairs that say neither picture nor caption of themselves cannot be told from earlier ones"
            )
        if id(source) not in numbers:
            numbers[id(source)] = identities.number(source.images, source.captions)
            if source.stand_ins is not None:
                stand_ins |= zip(source.targets, numbers[id(source)], strict=True)
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            found[row] = numbers[id(source)][place]
    return found, stand_ins


def _relabelled(
    dataset: AvalancheDataset, targets: list[int], label: int, stand_ins: Mapping[int, int]
) -> AvalancheDataset:
    """The samples of an experience under other targets and another task label, with the transforms that they have."""
    labels = getattr(dataset, "targets_task_labels", None)
    same = labels is not None and list(labels.uniques) == [label]
    if same and targets == [int(y) for y in dataset.targets]:
        return dataset
    return TaskAwareSupervisedClassificationDataset(
        [_Renumbered(untransformed(dataset), targets, stand_ins)],
        data_attributes=[DataAttribute(targets, "targets"), TaskLabels([label] * len(targets))],
        transform_groups=TransformGroups({group: (transform_of(dataset, group), None) for group in ("train", "eval")}),
    )


class _Renumbered(Dataset):
    """Raw samples under other targets.

    :param samples: samples that begin with the input.
    :param targets: a target for each sample.
    :param stand_ins: targets of pairs that may take the place of another one, by those that they have themselves.
    """

    def __init__(self, samples: AvalancheDataset, targets: Sequence[int], stand_ins: Mapping[int, int]) -> None:
        self.samples, self.targets, self.stand_ins = samples, list(targets), stand_ins

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        x, y = self.samples[index][:2]
        return x, self.stand_ins.get(int(y), self.targets[index])

    def places_of(self, rows: np.ndarray) -> Located:
        """The data sets that say what samples are, for a comparison of contents, as
        :func:`~avalanche_vlm.benchmarks.places.located` gives them.

        :param rows: places of the samples.
        """
        return located(self.samples, rows)


def _sources(dataset: Any) -> Iterator[Any]:
    seen: set[int] = set()
    for source, _, _ in located(dataset, np.arange(len(dataset))):
        if id(source) not in seen:
            seen.add(id(source))
            yield source
