"""Any class-labelled benchmark of Avalanche's as one of ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from avalanche.benchmarks.scenarios import CLScenario
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
    TransformGroups,
)
from avalanche.benchmarks.utils.data_attribute import TaskLabels
from torch.utils.data import Dataset

from avalanche_vlm.benchmarks.label_space import PHOTO, LabelSpace, PromptTemplates, Visible
from avalanche_vlm.benchmarks.places import Located, located
from avalanche_vlm.benchmarks.registry import Reader
from avalanche_vlm.benchmarks.relabelling import (
    Samples,
    SamplesByStream,
    Tasks,
    label_per_experience,
    matched,
    original_ids,
    own_labels,
    parts_of,
    test_per_experience,
    tested_elsewhere,
)
from avalanche_vlm.benchmarks.scenario import DataReport, HeldOutSet, PairTransform, ReferencePairs, VLMBenchmark
from avalanche_vlm.benchmarks.sources.class_names import warned_of
from avalanche_vlm.benchmarks.sources.name_lists import ClassNames, names_of_ids
from avalanche_vlm.compat.data_sets import untransformed
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.memory.generators import Generator

WHOLE_TEST = "whole_test"
"""Name of the stream of the test experiences as they were, where they had to be divided."""


def from_avalanche(
    benchmark: CLScenario,
    class_names: ClassNames | None = None,
    *,
    model: Reader | None = None,
    templates: PromptTemplates | Sequence[str] | str | None = None,
    label_space: Visible | None = None,
    train_transform: Callable[[Any], Any] | None = None,
    eval_transform: Callable[[Any], Any] | None = None,
    keep_transforms: bool = False,
    task_names: Sequence[str] | None = None,
    name: str | None = None,
    held_out: Sequence[HeldOutSet] | None = None,
    reference: ReferencePairs | None = None,
    generator: Generator | None = None,
) -> VLMBenchmark:
    """Make any class-labelled benchmark of Avalanche's one of ours: for :func:`~avalanche_vlm.run_experiment`,
    diagnosis and advice as for stock strategies.

    Its streams stay, validation streams and others included, with their experiences and samples in their order. No
    image is read before it is asked for.

    *Task labels.* Labels that differ among the training experiences stay (numbered from 0 in their order). Where the
    data sets have none, or all have the same, every training experience is a task of its own, as is the experience of
    another stream that has the same number and no other classes; the samples of any other experience belong to the
    first task that trains their class.

    *Test stream.* Results have one column per task. Test experiences in another order than the training experiences are
    matched by their classes, which a note in ``data`` says. Where there are not as many as training experiences
    (``new_instances_benchmark``, ``complete_test_set_only``), or one has none of the classes that are trained, test
    experience i is what the given test stream holds of the classes that training experience i trains; the stream as it
    was stays as ``whole_test``.

    *Class ids* are those of the data set: where ``nc_benchmark`` has numbered classes anew
    (``class_ids_from_zero_in_each_exp`` or ``_from_first_exp``), that is undone, with a note.

    *Images.* The transforms of the model stand in the place of those of the benchmark, which are another model's as a
    rule. They take PIL images, uint8 tensors or arrays, and floating-point ones in [0, 1], in grey or colour; values
    beyond that (normalised ones, by a transform inside the data set) are refused when they are read.

    :param benchmark: the benchmark with streams ``train`` and ``test``, whose data sets have targets.
    :param class_names: names of the classes in the order of their ids, by id, or path of a file of names
        (:func:`~avalanche_vlm.benchmarks.sources.name_lists.names_for`). None for a benchmark that Avalanche has made
        of one of ours, such as ``benchmark_with_validation_stream(ours)``: classes, held-out sets and resources are
        those of ours then, and so are the pairs of one of pairs.
    :param model: the model whose transforms read the images. Without it and without transforms, samples stay as they
        are.
    :param templates: prompts around the class names, one or more sentences with a ``{}``, or a named set of them;
        ``a photo of a {}.`` by default.
    :param label_space: which classes compete at prediction; by default ``"task"`` where the benchmark has task labels
        of its own, and ``"seen"`` (class-incremental) where it has none.
    :param train_transform: the transform of training images; the model's by default.
    :param eval_transform: the transform of images that are evaluated; the model's by default.
    :param keep_transforms: whether the benchmark's own transforms are applied before those of the model.
    :param task_names: names of the training experiences; ``task 0``, ``task 1``, ... by default.
    :param name: name of the benchmark in results; by default that of its class, or ``avalanche``.
    :param held_out: sets that no task trains.
    :param reference: pairs for distillation.
    :param generator: draws pictures of prompts.
    :return: the benchmark, over the same samples.
    :raises InputError: in one sentence, for a benchmark that lacks a stream or targets, and for names that do not fit.
    """
    ours = next((s.benchmark for s in benchmark.streams.values() if isinstance(s.benchmark, VLMBenchmark)), None)
    if class_names is None and ours is None:
        raise InputError("the classes of the benchmark have no names: give class_names, in the order of their ids")
    streams = {stream: parts_of(stream, experiences) for stream, experiences in benchmark.streams.items()}
    for needed in ("train", "test"):
        if not streams.get(needed):
            raise InputError(f"the benchmark has no {needed} stream; it has {', '.join(streams) or 'none'}")
    notes = list(ours.data.notes) if ours and ours.data else []
    if class_names is not None and (sentence := original_ids(benchmark, streams)):
        notes.append(sentence)
        if getattr(benchmark, "class_ids_from_zero_from_first_exp", False):  # names might have been given for its order
            warnings.warn(sentence, DataWarning, stacklevel=2)
    own = own_labels(streams)
    paired = class_names is None and ours is not None and ours.kind == "pairs"
    notes += [] if paired else matched(streams, given=own is not None)  # pairs have no classes to go by
    tasks = own or label_per_experience(streams)
    n_train = len(streams["train"])
    if len(streams["test"]) != n_train or (not paired and tested_elsewhere(streams, tasks.given)):
        streams[WHOLE_TEST], streams["test"] = streams["test"], test_per_experience(streams, tasks.given)
    names = _titles(task_names, n_train) or (ours.task_names if ours and len(ours.task_names) == n_train else ())
    space = None
    if class_names is not None or (ours and ours.kind == "classes"):
        space = _space(ours if class_names is None else None, class_names, streams, tasks, names, notes)
        prompts = _templates(templates) if templates is not None else space.templates
        visible = label_space or (space.visible if class_names is None else "task" if tasks.given else "seen")
        space = replace(space, templates=prompts, visible=visible)
        notes += [] if class_names is None else warned_of(space)
    train, evaluate = _transforms(model, train_transform, eval_transform, pairs=space is None)
    ready = {
        stream: [_data(part, stream, train, evaluate, keep_transforms, pairs=space is None) for part in parts]
        for stream, parts in streams.items()
    }
    own_name = ours.name if ours else type(benchmark).__name__ if type(benchmark) is not CLScenario else "avalanche"
    images = "the benchmark's" if train is None else "the model's"
    return VLMBenchmark(
        name or own_name,
        "classes" if space is not None else "pairs",
        ready["train"],
        ready["test"],
        label_space=space,
        task_names=names or [f"task {i}" for i in range(n_train)],
        further={stream: sets for stream, sets in ready.items() if stream not in ("train", "test")},
        held_out=held_out if held_out is not None else ours.held_out if ours else (),
        reference=reference or (ours.reference if ours else None),
        generator=generator or (ours.generator if ours else None),
        data=replace(ours.data, notes=notes, chosen={}) if ours and ours.data else DataReport(notes=notes),
        protocol={
            **(ours.protocol if ours else {}),
            **{f"n_{stream}": [len(part) for part in parts] for stream, parts in streams.items()},
            "task_labels": "given" if tasks.given else "per experience",
            "images": f"the benchmark's, then {images}" if keep_transforms and train is not None else images,
        },
    )


def _titles(given: Sequence[str] | None, experiences: int) -> tuple[str, ...]:
    titles = tuple(given or ())
    if titles and len(titles) != experiences:
        raise InputError(f"task_names has {len(titles)} names for {experiences} training experiences")
    return titles


def _templates(given: PromptTemplates | Sequence[str] | str) -> tuple[PromptTemplates, ...]:
    if isinstance(given, PromptTemplates):
        return (given,)
    return (PromptTemplates("given", (given,) if isinstance(given, str) else tuple(given)),)


def _space(
    ours: VLMBenchmark | None,
    class_names: ClassNames | None,
    streams: SamplesByStream,
    tasks: Tasks,
    names: Sequence[str],
    notes: list[str],
) -> LabelSpace:
    """The classes and the tasks that they belong to; what competes and the prompts come later, but for ours. ``notes``
    takes a sentence on names of no class."""
    every = [part for parts in streams.values() for part in parts]
    members: list[set[int]] = [set() for _ in range(tasks.number)]
    for part in every:
        for y, label in zip(part.targets, part.labels, strict=True):
            members[label].add(y)
    if ours is not None and ours.label_space is not None:
        known = ours.label_space
        if len(known.tasks) == len(members) and all(a <= {*b} for a, b in zip(members, known.tasks, strict=True)):
            return known
        class_names = known.class_names
    assert class_names is not None
    called, surplus = names_of_ids(class_names, {y for part in every for y in part.targets})
    if surplus:
        from_zero = len(members) > 1 and all(of == set(range(len(of))) for of in members)
        if from_zero and len(called) + len(surplus) >= sum(map(len, members)):
            raise InputError(
                f"class ids start from 0 in each of the {len(members)} tasks, so they do not say which of the "
                f"{len(called) + len(surplus)} names are whose: number the classes through all tasks, or, if the tasks "
                f"share their classes, give the names of the ids 0 to {len(called) - 1} alone"
            )
        notes.append(f"{len(surplus)} class names are of no class of the benchmark, {surplus[0]!r} first: left out")
    titles = list(names) if len(names) == len(members) else [f"task {i}" for i in range(len(members))]
    if rest := set(range(len(called))).difference(*members):
        members[tasks.number :] = [rest]
        titles.append("no task")
    of_tasks = tuple(tuple(sorted(of)) for of in members)
    return LabelSpace(tuple(called), of_tasks, task_names=tuple(titles), templates=(PHOTO,))


def _transforms(
    model: Reader | None, train: Callable[[Any], Any] | None, evaluate: Callable[[Any], Any] | None, pairs: bool
) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
    """The transforms for training and for evaluation; None for samples that stay as they are."""
    if model is not None:
        train, evaluate = train or model.transforms.train, evaluate or model.transforms.eval
        if pairs:
            return PairTransform(train, model.tokenizer), PairTransform(evaluate, model.tokenizer)
    if pairs and (train or evaluate):
        raise InputError("pairs are read by a model, whose tokenizer reads the captions: give model")
    return train or evaluate, evaluate or train


def _data(
    part: Samples, stream: str, train: Callable | None, evaluate: Callable | None, keep: bool, pairs: bool
) -> TaskAwareSupervisedClassificationDataset:
    attributes = [DataAttribute(part.targets, "targets"), TaskLabels(part.labels)]
    if train is None or evaluate is None:
        given = part.dataset.with_transforms("train" if stream == "train" else "eval")
        held = _Plain(given, part.targets, kept=True) if part.renumbered else part.dataset
        return TaskAwareSupervisedClassificationDataset([held], data_attributes=attributes)
    shown = (
        part.dataset.with_transforms("train" if stream == "train" else "eval") if keep else untransformed(part.dataset)
    )
    return TaskAwareSupervisedClassificationDataset(
        [shown if pairs else _Plain(shown, part.targets, keep)],
        data_attributes=attributes,
        transform_groups=TransformGroups({"train": (train, None), "eval": (evaluate, None)}),
    )


class _Plain(Dataset):
    """The samples of an Avalanche data set with nothing beside their class, which is read from its targets.

    :param dataset: samples that begin with the image.
    :param targets: class ids of the samples.
    :param kept: whether the transforms of the data set are kept, so that what it holds is not what it gives.
    """

    def __init__(self, dataset: AvalancheDataset, targets: Sequence[int], kept: bool) -> None:
        self.samples = dataset
        self.targets = targets
        self.kept = kept

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.samples[index][0], self.targets[index]

    def places_of(self, rows: np.ndarray) -> Located:
        """The data sets that say what samples are, for a comparison of contents, as
        :func:`~avalanche_vlm.benchmarks.places.located` gives them.

        :param rows: places of the samples.
        """
        return iter([(self, np.arange(len(rows)), rows)]) if self.kept else located(self.samples, rows)
