"""Benchmarks: Avalanche scenarios that also know their class names, prompts and held-out sets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from avalanche.benchmarks.scenarios import CLScenario
from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
from avalanche.benchmarks.scenarios.supervised import with_classes_timeline
from avalanche.benchmarks.scenarios.task_aware import with_task_labels
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    TaskAwareSupervisedClassificationDataset,
    TransformGroups,
)
from torch.utils.data import Dataset

from avalanche_vlm.benchmarks.identities import Identities, Images
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import LabelSpace, StreamKind, refuse_long
from avalanche_vlm.benchmarks.passed_over import PassedOver, StandIns
from avalanche_vlm.benchmarks.sample_values import Targets, TaskLabels
from avalanche_vlm.memory.generators import Generator

Transform = Callable[[Any], torch.Tensor]


def size_of(dataset: Dataset) -> int:
    """Number of samples. Torch's data sets have a length that their base does not declare.

    :param dataset: data set that is read by index.
    """
    return len(cast("Sized", dataset))


def contents_at(images: Any, rows: Sequence[int] | np.ndarray) -> Iterable[Any]:
    """What stands for images when contents are compared: of a file a digest of its bytes, so that nothing is decoded.

    :param images: a sequence of images; one that has a method ``contents_of(rows)`` says itself what stands for them.
    :param rows: places of the images in the sequence.
    """
    return images.contents_of(rows) if hasattr(images, "contents_of") else (images[int(row)] for row in rows)


class ImageDataset(Dataset):
    """Raw images held in memory, with class ids.

    :param images: uint8 ``[N, 3, H, W]``, or a sequence of anything that the transform takes.
    :param targets: N class ids.
    :param stand_ins: reads the images, and another one of the class in the place of one that cannot be read; None for
        images that can be read, or that stop whoever meets them.
    """

    def __init__(self, images: Images, targets: Sequence[int], stand_ins: StandIns | None = None) -> None:
        if len(images) != len(targets):
            raise ValueError(f"{len(images)} images with {len(targets)} targets")
        self.images = images
        once: dict[int, int] = {}  # of classes beyond some hundred Python makes a number anew for each sample
        self.targets = [once.setdefault(number, number) for number in map(int, targets)]
        self.stand_ins = stand_ins

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if self.stand_ins is None:
            return self.images[index], self.targets[index]
        row, image = self.stand_ins.read(index, self.targets)
        return image, self.targets[row]

    def contents_of(self, rows: Sequence[int] | np.ndarray) -> Iterable[Any]:
        """What images are, for a comparison of contents.

        :param rows: places of the samples.
        """
        return contents_at(self.images, rows)


class PairDataset(Dataset):
    """Raw images with captions. ``targets`` are the pairs' identities (:mod:`~avalanche_vlm.losses.identity`): of the
    caption, and of the image where that has several.

    :param images: uint8 ``[N, 3, H, W]``, or a sequence of anything that the transform takes.
    :param captions: captions of the N images.
    :param identities: numbers of images and captions, extended here and shared by the data sets of one benchmark; by
        default this data set has its own.
    :param stand_ins: reads the images; in the place of a pair whose image cannot be read comes another one, with its
        own caption and identity. None for images that can be read, or that stop whoever meets them.
    """

    def __init__(
        self,
        images: Images,
        captions: Sequence[str],
        identities: Identities | None = None,
        stand_ins: StandIns | None = None,
    ) -> None:
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images with {len(captions)} captions")
        self.images = images
        self.captions = list(captions)
        self.identities = identities or Identities()
        self.targets = self.identities.number(images, self.captions)
        self.stand_ins = stand_ins

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[tuple[Any, str], int]:
        if self.stand_ins is None:
            return (self.images[index], self.captions[index]), self.targets[index]
        row, image = self.stand_ins.read(index)
        return (image, self.captions[row]), self.targets[row]

    def contents_of(self, rows: Sequence[int] | np.ndarray) -> Iterable[tuple[Any, str]]:
        """What images and captions are, for a comparison of contents.

        :param rows: places of the samples.
        """
        return zip(contents_at(self.images, rows), (self.captions[int(row)] for row in rows), strict=True)


def describe_transform(transform: Callable[..., Any]) -> str:
    """A transform in words: what it says of itself, or a function's name; nothing that changes with the process.

    :param transform: any transform of a sample.
    """
    if hasattr(transform, "describe"):
        return str(transform.describe())
    name = getattr(transform, "__qualname__", None)
    said = f"{transform.__module__}.{name}" if name else repr(transform)
    return " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", said).split())


class PairTransform:
    """Turns a raw ``(image, caption)`` into an :class:`~avalanche_vlm.benchmarks.ImageText` sample.

    :param image: the image transform.
    :param tokenizer: a text to tokens ``[1, L]``; captions are tokenised once and kept.
    """

    def __init__(self, image: Transform, tokenizer: Callable[[list[str]], torch.Tensor]) -> None:
        self.image = image
        self.tokenizer = tokenizer
        self._tokens: dict[str, torch.Tensor] = {}

    def describe(self) -> str:
        """The transform in words."""
        tokenizer = type(self.tokenizer)
        return f"{describe_transform(self.image)}, captions by {tokenizer.__module__}.{tokenizer.__qualname__}"

    def __call__(self, pair: tuple[Any, str]) -> ImageText:
        image, caption = pair
        tokens = self._tokens.get(caption)
        if tokens is None:
            tokens = self._tokens.setdefault(caption, self.tokenizer([caption])[0])
        return ImageText(self.image(image), tokens)


@dataclass(frozen=True)
class HeldOutSet:
    """Something that no task trains, measured after every experience.

    :param name: column name in results.
    :param dataset: pairs for retrieval (samples :class:`~avalanche_vlm.benchmarks.ImageText`), or class-labelled
        images.
    :param label_space: the classes, for class-labelled images; None for retrieval.
    """

    name: str
    dataset: Dataset
    label_space: LabelSpace | None = None


@dataclass(frozen=True)
class ReferencePairs:
    """Image-text pairs that stand for what the pretrained model knows: the data that distillation runs on.

    :param images: transformed images ``[N, 3, H, W]``, or uint8 ones with ``transform`` to apply when they are read.
    :param captions: captions of the N images.
    :param transform: maps one raw image to the model's input.
    :param skipped: one sentence per pair that was left out at loading.
    :param path: where the pairs were read from; empty where they were made.
    """

    images: Images
    captions: tuple[str, ...]
    transform: Transform
    skipped: tuple[str, ...] = ()
    path: str = ""

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Images as the model takes them.

        :param indices: indices of the pairs.
        :return: transformed images ``[len(indices), 3, H, W]``.
        """
        return torch.stack([self.transform(self.images[i]) for i in indices])

    def identities(self) -> torch.Tensor:
        """The identities of the pairs ``[N]`` (:mod:`~avalanche_vlm.losses.identity`)."""
        return torch.tensor(Identities().number(self.images, self.captions), dtype=torch.long)

    @property
    def nbytes(self) -> int:
        """Bytes of the raw images (where they are tensors or arrays) and of the UTF-8 captions."""
        return getattr(self.images, "nbytes", 0) + sum(len(c.encode()) for c in self.captions)


@dataclass
class DataReport:
    """What loading the data came to: nothing that was left out goes unsaid.

    :param skipped: one sentence per sample that was left out.
    :param notes: what else a reader of results should know, a sentence each: files that were not taken for samples,
        names that were not taken as they are.
    :param cut: the captions of each part of the benchmark, and how many of them the model does not read to their end.
    :param chosen: places of the training images that were drawn for few shots, or of the pairs that were drawn to test,
        by task; empty where nothing is drawn.
    :param passed_over: the images that could not be read when they were met, where such do not stop a run.
    """

    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut: dict[str, dict[str, int]] = field(default_factory=dict)
    chosen: dict[str, list[int]] = field(default_factory=dict)
    passed_over: PassedOver = field(default_factory=PassedOver)

    def as_json(self) -> dict[str, Any]:
        """What a result says of its data: plain JSON types."""
        cut = {part: dict(counts) for part, counts in self.cut.items() if counts["cut"]}
        chosen = {"chosen": dict(self.chosen)} if self.chosen else {}
        passed_over = self.passed_over.as_json()
        met = {"passed_over": passed_over} if passed_over["count"] else {}
        return {"skipped": list(self.skipped), "notes": list(self.notes), "cut": cut, **chosen, **met}


class VLMBenchmark(CLScenario):
    """An Avalanche scenario with ``train_stream`` and ``test_stream``, and the text side of its tasks.

    :param name: name of the benchmark in results.
    :param kind: ``"classes"`` (samples ``image, y``) or ``"pairs"`` (samples ``ImageText, identity``).
    :param train: one Avalanche data set per experience.
    :param test: one Avalanche data set per experience; experience i of both streams is task i.
    :param label_space: class names and prompts; for pairs, None.
    :param task_names: names of the tasks, one per training experience.
    :param further: further streams by name, such as ``valid``, one Avalanche data set per experience.
    :param held_out: sets that no task trains.
    :param reference: pairs for distillation, if the benchmark brings them.
    :param generator: draws pictures of prompts, if the benchmark brings one.
    :param data: what was left out at loading.
    :param protocol: further facts about the data that decide figures or say where they lie, for ``protocol.data`` of a
        result: ``seed`` where the samples are drawn from one, ``split_seed`` where only the split is, sizes, ``path``.
    """

    def __init__(
        self,
        name: str,
        kind: StreamKind,
        train: Sequence[AvalancheDataset],
        test: Sequence[AvalancheDataset],
        *,
        label_space: LabelSpace | None = None,
        task_names: Sequence[str],
        further: Mapping[str, Sequence[AvalancheDataset]] | None = None,
        held_out: Sequence[HeldOutSet] = (),
        reference: ReferencePairs | None = None,
        generator: Generator | None = None,
        data: DataReport | None = None,
        protocol: dict[str, Any] | None = None,
    ) -> None:
        for number, task in enumerate(task_names):
            refuse_long(f"the name of task {number}", task)
        for of in held_out:
            refuse_long("the name of a held-out set", of.name)
        data_sets = {"train": train, "test": test, **(further or {})}
        streams = benchmark_from_datasets(**{stream: list(sets) for stream, sets in data_sets.items()})
        plain = with_classes_timeline(with_task_labels(streams))
        super().__init__(plain.streams.values())
        for stream in self.streams.values():
            stream.benchmark = self
            per_task = len(stream) == len(task_names)
            for number, experience in enumerate(stream):
                experience.label_space = label_space
                experience.task_name = task_names[number] if per_task else f"{stream.name} {number}"
        self.name = name
        self.kind = kind
        self.label_space = label_space
        self.task_names = tuple(task_names)
        self.held_out = tuple(held_out)
        self.reference = reference
        self.generator = generator
        self.data = data or DataReport()
        self.protocol = protocol or {}


def as_experience_data(
    dataset: ImageDataset | PairDataset,
    train_transform: Callable,
    eval_transform: Callable,
    task_label: int = 0,
) -> TaskAwareSupervisedClassificationDataset:
    """An Avalanche data set with targets, a constant task label, and train and eval transforms.

    :param dataset: data set of raw samples.
    :param train_transform: maps a raw sample to the model's input in training.
    :param eval_transform: maps a raw sample to the model's input in evaluation.
    :param task_label: task label of every sample.
    :return: the data set.
    """
    return TaskAwareSupervisedClassificationDataset(
        [dataset],
        data_attributes=[
            Targets(dataset.targets),
            TaskLabels([task_label] * len(dataset)),  # Avalanche cannot join constants that differ, as GDumb does
        ],
        transform_groups=TransformGroups({"train": (train_transform, None), "eval": (eval_transform, None)}),
    )


def as_feature_data(
    features: torch.Tensor, y: torch.Tensor, task_labels: torch.Tensor
) -> TaskAwareSupervisedClassificationDataset:
    """An Avalanche data set of features in the place of images, as they are.

    :param features: features ``[N, D]`` of N images.
    :param y: class ids ``[N]`` of the images.
    :param task_labels: task labels ``[N]`` of the images.
    :return: the data set.
    """
    dataset = ImageDataset(features, y.tolist())
    attributes = [Targets(dataset.targets), TaskLabels(task_labels.tolist())]
    return TaskAwareSupervisedClassificationDataset([dataset], data_attributes=attributes)
