"""Scores of a model on a data set, outside any strategy."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from avalanche_vlm._host import to_device
from avalanche_vlm._ranks import reads_apart
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.evaluation.accumulators import AccuracyCounts, SampleColumns
from avalanche_vlm.evaluation.retrieval import pair_retrieval
from avalanche_vlm.evaluation.rightness import rightness
from avalanche_vlm.models.other_classes import OtherClasses
from avalanche_vlm.models.vlm import VLM


def zero_shot_accuracy(model: VLM, dataset: Dataset, label_space: LabelSpace, batch_size: int = 256) -> float:
    """Share of images that the model, as it predicts (:class:`~avalanche_vlm.models.other_classes.OtherClasses`), puts
    into the right one of a label space's classes, in [0, 1].

    :param model: evaluated in eval mode; its own label space stays as it is.
    :param dataset: samples ``(image, class id)``.
    :param label_space: classes, which all compete, and their prompts.
    :param batch_size: images that are encoded at a time.
    """
    return count_right(model, dataset, label_space, batch_size, sync_on_compute=False).compute()


def retrieval_scores(model: VLM, dataset: Dataset, batch_size: int = 256) -> dict[str, float]:
    """Hit@K and recall@K of a pair data set, both ways, in [0, 1].

    :param model: evaluated in eval mode.
    :param dataset: samples ``(ImageText, identity)``.
    :param batch_size: pairs that are encoded at a time.
    """
    images, texts, ids = paired_features(model, dataset, batch_size)
    return pair_retrieval(images, texts, ids)


def paired_features(
    model: VLM, dataset: Dataset, batch_size: int = 256
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit-length features of the images and of their texts ``[N, D]``, and the pairs' identities ``[N]``.

    :param model: evaluated in eval mode.
    :param dataset: samples ``(ImageText, identity)``.
    :param batch_size: pairs that are encoded at a time.
    """
    images, texts, ids = encode_set(model, dataset, batch_size, sync_on_compute=False).compute()
    return images, texts, ids


def count_right(
    model: VLM, dataset: Dataset, label_space: LabelSpace, batch_size: int = 256, **options: Any
) -> AccuracyCounts:
    """Right answers among all classes of a label space, ready to be reduced over processes.

    :param model: evaluated in eval mode; its own label space stays as it is.
    :param dataset: samples ``(image, class id)`` that this process reads.
    :param label_space: classes, which all compete, and their prompts.
    :param batch_size: images that are encoded at a time.
    :param options: options of the accumulator.
    """
    right = []
    with model.evaluating():
        asked = OtherClasses(model, label_space)
        for images, y, *_ in ordered_batches(dataset, batch_size):
            right.append(rightness(asked.logits(to_device(images, model.device)), y))
    counts = AccuracyCounts(**options)
    if right:
        counts.update(torch.cat(right).cpu())  # counted here: a device is waited for once
    return counts.to(model.device) if reads_apart() else counts  # processes count by what they talk by


def encode_set(model: VLM, dataset: Dataset, batch_size: int = 256, **options: Any) -> SampleColumns:
    """Unit-length features of images and texts and their caption ids, ready to be gathered from all processes.

    :param model: evaluated in eval mode.
    :param dataset: samples ``(ImageText, identity)`` that this process reads.
    :param batch_size: pairs that are encoded at a time.
    :param options: options of the accumulator.
    """
    columns = SampleColumns("images", "texts", "ids", **options)
    if reads_apart():
        columns.to(model.device)  # a process without a sample has none to tell it by
    with model.evaluating():
        for pairs, y, *_ in ordered_batches(dataset, batch_size):
            columns.update(*encode_pairs(model, pairs.to(model.device, non_blocking=True)), to_device(y, model.device))
    return columns


def encode_pairs(model: VLM, pairs: ImageText, task_labels: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length features of images and texts, each ``[B, D]``.

    :param model: encoded as it is, whatever its mode.
    :param pairs: batch on the model's device.
    :param task_labels: task labels ``[B]``, read where an oracle chooses modules by them; None for pairs of no task.
    """
    images = model.encode_image(pairs.image, task_labels=task_labels)
    return images, model.encode_text(pairs.tokens, task_labels=task_labels, padding=pairs.padding)
