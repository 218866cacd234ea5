"""Scores of a model on a data set, outside any strategy."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.evaluation.retrieval import retrieval_metrics
from avalanche_vlm.models.vlm import VLM


def zero_shot_accuracy(model: VLM, dataset: Dataset, label_space: LabelSpace, batch_size: int = 256) -> float:
    """Share of images whose nearest class prompt is the right one, in [0, 1].

    :param model: evaluated in eval mode; its own label space stays as it is.
    :param dataset: samples ``(image, class id)``.
    :param label_space: all its classes compete.
    """
    with model.evaluating():
        classes = model.class_features(label_space)
        right = total = 0
        for images, y, *_ in DataLoader(dataset, batch_size):
            logits = model.similarity(model.encode_image(images.to(model.device)), classes)
            right += int((logits.argmax(1).cpu() == y).sum())
            total += len(y)
        return right / total


def retrieval_scores(model: VLM, dataset: Dataset, batch_size: int = 256) -> dict[str, float]:
    """Hit@K and recall@K of a pair data set, both ways, in [0, 1].

    :param model: evaluated in eval mode.
    :param dataset: samples ``(ImageText, caption id)``.
    """
    images, texts, ids = paired_features(model, dataset, batch_size)
    return retrieval_metrics(images, texts, ids, ids)


def paired_features(
    model: VLM, dataset: Dataset, batch_size: int = 256
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit-length features of the images and of their texts ``[N, D]``, and the caption ids ``[N]``.

    :param model: in eval mode meanwhile.
    :param dataset: samples ``(ImageText, caption id)``.
    """
    with model.evaluating():
        images, texts, ids = [], [], []
        for pairs, y, *_ in DataLoader(dataset, batch_size):
            image, text = encode_pairs(model, pairs.to(model.device))
            images.append(image)
            texts.append(text)
            ids.append(y)
        return torch.cat(images), torch.cat(texts), torch.cat(ids).to(model.device)


def encode_pairs(model: VLM, pairs: ImageText) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length features of both sides ``[B, D]``."""
    return model.encode_image(pairs.image), model.encode_text(pairs.tokens)
