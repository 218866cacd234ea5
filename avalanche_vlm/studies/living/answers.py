"""What a model answers on a test set, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.label_space import LabelSpace
from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.retrieval import first_hits
from avalanche_vlm.evaluation.rightness import answered, rightness
from avalanche_vlm.evaluation.zero_shot import encode_pairs
from avalanche_vlm.losses.identity import images_of_rows
from avalanche_vlm.models import VLM
from avalanche_vlm.models.other_classes import OtherClasses
from avalanche_vlm.training.data import labelled


@dataclass(frozen=True)
class TestSet:
    """Samples that a model is asked about.

    :param name: name of the set in what is said of it.
    :param dataset: samples as the model reads them, with class ids or identities of pairs, and perhaps task labels.
    :param label_space: the classes that are asked about, where they are not the model's own; None for the model's own
        classes, and for pairs.
    """

    name: str
    dataset: Dataset
    label_space: LabelSpace | None = None

    __test__ = False  # no test of pytest's


@dataclass(frozen=True)
class SampleAnswers:
    """What a model answers on a set of N samples, on the CPU.

    :param right: how right each answer is, float64 ``[N]`` in [0, 1], a fraction where scores tie; of pairs the mean of
        both directions' hit@1.
    :param chosen: ids of the classes that were answered ``[N]``; -1 for pairs.
    :param y: ids of the true classes, or identities of pairs ``[N]``.
    :param features: image features of unit length ``[N, D]``.
    :param texts: text features of pairs, of unit length ``[N, D]``; None for classes.
    """

    right: torch.Tensor
    chosen: torch.Tensor
    y: torch.Tensor
    features: torch.Tensor
    texts: torch.Tensor | None = None

    @property
    def score(self) -> float:
        """The share of right answers, in [0, 1]."""
        return float(self.right.mean())

    @property
    def independent(self) -> int:
        """How many pictures there are: of one with several captions the answers hang together."""
        return len(self.y) if self.texts is None else len(images_of_rows(self.y).unique())


def answers_of(model: VLM, asked: TestSet, batch_size: int = 256) -> SampleAnswers:
    """What a model answers, in eval mode; it stays as it is.

    :param model: the model that is asked.
    :param asked: the set of samples that it is asked about.
    :param batch_size: samples that are encoded at a time.
    :raises InputError: for a set without a sample.
    """
    parts: list[tuple[torch.Tensor, ...]] = []
    pairs = False
    with model.evaluating():
        others = None if asked.label_space is None else OtherClasses(model, asked.label_space)
        for batch in ordered_batches(asked.dataset, batch_size):
            x, y, task = labelled(batch)
            x, y, task = x.to(model.device), y.to(model.device), task.to(model.device)
            if isinstance(x, ImageText):
                pairs = True
                parts.append((*encode_pairs(model, x, task), y))
                continue
            features = model.encode_image(x, task_labels=task if others is None else None)
            if others is not None:
                logits = others.logits(x)
            else:
                logits = model.classify(features, task) if model.routed is None else model(x, task)
            parts.append((rightness(logits, y), logits.argmax(1), y, features))
    if not parts:
        raise InputError(f"{asked.name} has no test samples to ask a model about")
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    if pairs:
        images, texts, y = columns
        right = first_hits(images, texts, y).double().mean(0)
        return SampleAnswers(right.cpu(), torch.full_like(y, -1).cpu(), y.cpu(), images.cpu(), texts.cpu())
    right, chosen, y, features = (column.cpu() for column in columns)
    return SampleAnswers(answered(right), chosen, y, features)
