"""What a model says of images: the most probable classes, which module has answered, and what no task knows."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from avalanche_vlm.benchmarks.label_space import PHOTO, LabelSpace, PromptTemplates
from avalanche_vlm.errors import DataWarning, InputError
from avalanche_vlm.memory.rows import whole
from avalanche_vlm.models.answers import ClassProbability, Prediction
from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.other_classes import OtherClasses
from avalanche_vlm.models.pictures import Pictures, named_batches
from avalanche_vlm.models.unread_words import warn_of_unread_words
from avalanche_vlm.models.vlm import VLM

Templates = str | Sequence[str] | PromptTemplates
"""One prompt with ``{}`` in the place of the class, several, or templates that were made of them."""


def predict(
    model: VLM,
    images: Pictures,
    labels: Sequence[str] | None = None,
    top_k: int = 5,
    *,
    templates: Templates | None = None,
    batch_size: int = 64,
) -> list[Prediction]:
    """The most probable classes of each image, see :meth:`~avalanche_vlm.models.answering.Answering.predict`.

    :param model: the model, of which nothing changes.
    :param images: a path, a PIL image, an array, a list of these, or a batch ``[B, 3, H, W]`` under the model's
        transforms.
    :param labels: names of the classes that compete; None for the model's own label space.
    :param top_k: classes per image at most, at least 1.
    :param templates: prompts with ``{}`` for the class name, around ``labels``; None for those of the model's label
        space if all its classes have the same, and ``a photo of a {}.`` otherwise.
    :param batch_size: images that are read and encoded at a time, at least 1.
    :return: one prediction per image, in the order of the images.
    :raises InputError: for an image that cannot be read, labels that cannot be told apart or are none, a model without
        a label space where none are given, and logits that are no numbers.
    """
    predictor = Predictor(model, labels, top_k, templates=templates)
    found: list[Prediction] = []
    for names, batch in named_batches(images, model.transforms.eval, batch_size):
        called = [name or f"image {len(found) + row}" for row, name in enumerate(names)]
        found += predictor(batch, called)
    return found


class Predictor:
    """A model that is asked about batch after batch: what the classes need is made once.

    An image's answer does not depend on the other images of its batch, beyond the rounding of matrix products whose
    order of summation depends on the size of the batch.

    :param model: the model, of which nothing changes.
    :param labels: names of the classes that compete; None for the model's own label space.
    :param top_k: classes per image at most, at least 1.
    :param templates: prompts around ``labels``, as :func:`predict` takes them.
    :raises InputError: as :func:`predict` does, for all but images.
    """

    def __init__(
        self,
        model: VLM,
        labels: Sequence[str] | None = None,
        top_k: int = 5,
        *,
        templates: Templates | None = None,
    ) -> None:
        self.model = model
        self.top_k = whole(top_k, 1, "the number of classes per image (top_k)")
        if labels is None and templates is not None:
            raise InputError("templates are for labels that are given: the model's own classes have theirs")
        if labels is None and model.label_space is None:
            raise InputError(f"{model.name} has no label space: say with labels which classes there are")
        if model.routed is not None and model.routed.use_task_labels:
            raise InputError(
                f"{model.name} chooses its modules by the task label of each sample, which an image does not have: "
                "set model.routed.use_task_labels to False to let its router choose"
            )
        self.names: tuple[str, ...] = () if model.label_space is None else model.label_space.class_names
        self._of_features: Callable[[torch.Tensor], torch.Tensor] = model.classify
        if labels is not None:
            space = open_label_space(model, labels, templates)
            warn_of_unread_words(model, space.class_names, "label", stacklevel=4)
            asked = OtherClasses(model, space)
            if sentence := asked.head.told_apart(space):
                warnings.warn(sentence, DataWarning, stacklevel=4)
            self.names, self._of_features = space.class_names, asked.of_features

    def __call__(self, images: torch.Tensor, names: Sequence[str] | None = None) -> list[Prediction]:
        """The predictions of a batch.

        :param images: ``[B, 3, H, W]`` under the model's transforms, on any device.
        :param names: what an error calls each image; ``image 0`` and so on by default.
        :raises InputError: if images are of another size, and for the first image whose logits are no numbers.
        """
        if not len(images):
            return []
        with self.model.evaluating():
            logits, modules, outside = self._answers(images.to(self.model.device))
        if bool((broken := ~finite_rows(logits)).any()):
            row = int(broken.nonzero()[0, 0])
            raise InputError(
                f"{self.model.name} has no answer to {names[row] if names else f'image {row}'}: a logit is not a "
                "number, so its weights or the image's values are none either"
            )
        found = most_probable(logits.cpu(), self.names, self.top_k)
        return [Prediction(*answer) for answer in zip(found, modules, outside, strict=True)]

    def _answers(self, images: torch.Tensor) -> tuple[torch.Tensor, list[str | None], list[bool | None]]:
        """Logits ``[B, classes]``, and per image the module and whether it is out of distribution."""
        model, routed = self.model, self.model.routed
        modules: list[str | None] = [None] * len(images)
        outside: list[bool | None] = [None] * len(images)
        if routed is None:
            return self._of_features(model.encode_image(images)), modules, outside
        logits = images.new_empty(len(images), len(self.names), dtype=torch.float32)
        for rows, features in model.routed_groups(routed, images):
            features = F.normalize(features, dim=-1)
            logits[rows] = self._of_features(features)
            away = routed.turns_away(features) if routed.pool.active is None else [False] * len(features)
            for row, is_outside in zip(rows.tolist(), away, strict=True):
                modules[row], outside[row] = routed.pool.active, is_outside
        return logits, modules, outside


def open_label_space(model: VLM, labels: Sequence[str], templates: Templates | None = None) -> LabelSpace:
    """The label space of classes that a user names, all of which compete.

    :param model: the model that is asked.
    :param labels: names of the classes, each once.
    :param templates: prompts around the names, as :func:`predict` takes them.
    :raises InputError: if there are none, one is no text, empty or named twice.
    """
    names = [] if isinstance(labels, str) else list(labels)
    if not names:
        raise InputError("labels are a list with the name of one class or more")
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"labels are names, not {name!r}")
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise InputError(f"the label {twice!r} is named twice, and no text tells the two apart")
    if templates is None:
        own = () if model.label_space is None else model.label_space.templates
        templates = own[0] if len(set(own)) == 1 else PHOTO
    if not isinstance(templates, PromptTemplates):
        texts = (templates,) if isinstance(templates, str) else tuple(templates)
        if not texts:
            raise InputError("templates are one prompt or more, with {} for the class name")
        templates = PromptTemplates("given", texts)
    return LabelSpace.from_names(names, templates)


def finite_rows(logits: torch.Tensor) -> torch.Tensor:
    """Bool ``[B]``: rows of which no logit is NaN or infinite.

    :param logits: logits ``[B, classes]``.
    """
    return logits.isfinite().all(1)


def most_probable(logits: torch.Tensor, names: Sequence[str], top_k: int) -> list[tuple[ClassProbability, ...]]:
    """The most probable of the classes that compete in each row.

    :param logits: finite logits ``[B, classes]``, ``MASKED`` for classes that do not compete.
    :param names: names of the classes.
    :param top_k: classes per row at most.
    :return: the classes of each row by descending logit, of equal ones those with smaller indices first.

    >>> (row,) = most_probable(torch.tensor([[0.0, MASKED, 2.0, 2.0]]), ["a", "b", "c", "d"], 3)
    >>> [(found.name, round(found.probability, 3)) for found in row]
    [('c', 0.468), ('d', 0.468), ('a', 0.063)]
    """
    competes = logits != MASKED
    scores = logits.double().masked_fill(~competes, -torch.inf)
    probabilities = scores.softmax(1)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    counts = competes.sum(1).clamp_max(top_k).tolist()
    return [
        tuple(
            ClassProbability(names[index], index, probability)
            for index, probability in zip(ids[:count], row[:count], strict=True)
        )
        for ids, row, count in zip(order.tolist(), probabilities.gather(1, order).tolist(), counts, strict=True)
    ]
