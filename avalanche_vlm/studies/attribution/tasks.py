"""What a trained model lost on test pictures of earlier tasks, against what it was when each of them was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from avalanche_vlm.benchmarks.reading import ordered_batches
from avalanche_vlm.benchmarks.scenario import size_of
from avalanche_vlm.evaluation.rightness import answered, rightness
from avalanche_vlm.models import VLM
from avalanche_vlm.models.heads.text import TextHead
from avalanche_vlm.studies.attribution.interventions import Interventions
from avalanche_vlm.studies.attribution.part import Features, Fit, LossPart
from avalanche_vlm.studies.attribution.steps import StepWeights


class TaskPictures:
    """Test pictures of a task in memory (0.6 MB each at 224 pixels), with classes and task labels.

    :param dataset: samples ``(image, class id, task label)``, transformed.
    :param most: number of pictures at most, drawn with the seed.
    :param seed: seed of the draw, 0 or more.
    :param batch_size: pictures at a time.
    """

    def __init__(self, dataset: Dataset, most: int, seed: int = 0, batch_size: int = 256) -> None:
        drawn = torch.randperm(size_of(dataset), generator=torch.Generator().manual_seed(seed))[:most]
        self.rows = drawn.sort().values.numpy()
        """Which of the data set's samples these are."""
        batches = list(ordered_batches(Subset(dataset, self.rows.tolist()), batch_size))
        self.batches = [(x, labels) for x, _, labels, *_ in batches]
        self.y = torch.cat([y for _, y, *_ in batches])

    def __len__(self) -> int:
        return len(self.y)

    def on(self, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and task labels, batch by batch.

        :param device: where they are wanted.
        """
        for x, labels in self.batches:
            yield x.to(device), labels.to(device)

    def features(self, model: VLM) -> torch.Tensor:
        """Unit-length image features ``[N, D]``.

        :param model: the model in its present state.
        """
        with model.evaluating():
            return torch.cat([model.encode_image(x, task_labels=t) for x, t in self.on(model.device)])


class TaskPart(LossPart):
    """A task's test pictures against the model as it was when the task had been trained.

    They are answered as in the performance matrix: under the stream's label space and task labels, by routed modules
    and class heads. Amended are the classes that compete: those that did then, in the place of those that do now.

    Spaces are rotated back by all other pictures: those of other tasks, and of this one's halves the other. Texts are
    few, all prompts of the label space; a rotation of them leaves them to each other as training left them, so it is
    fitted on what it is applied to. Where samples are routed to modules, each has a space of its own, and none is
    rotated.

    :param model: the trained model, changed only while something is measured.
    :param steps: weights after every step.
    :param step: the step after which the task was trained.
    :param task: position of the task among the pictures.
    :param pictures: test pictures of all tasks.
    :param before: how right each of the task's pictures was answered then, in {0, 1}.
    :param precision: makes the context of precision that the model predicts in.
    """

    def __init__(
        self,
        model: VLM,
        steps: StepWeights,
        step: int,
        task: int,
        pictures: Sequence[TaskPictures],
        before: np.ndarray,
        precision: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self._steps, self._step = steps, step
        self._own = pictures[task]
        self._others = [of for position, of in enumerate(pictures) if position != task]
        self._before, self._precision = before, precision
        self.maps = () if model.routed is not None else ("rotate",)
        super().__init__(model)

    def __len__(self) -> int:
        return len(self._own)

    @property
    def target(self) -> np.ndarray:
        return self._before

    def opened(self) -> Interventions:
        return self._steps.interventions(self._step)

    def images(self, model: VLM) -> torch.Tensor:
        with self._precision():
            return self._own.features(model)

    def texts(self, model: VLM) -> torch.Tensor:
        """Features of all classes' prompts ``[classes, D]``."""
        assert model.label_space is not None
        with model.evaluating(), self._precision():
            return model.prompt_features(torch.arange(len(model.label_space), device=model.device))

    def score(self, features: Features, given: bool = False) -> np.ndarray:
        model, found = self.model, []
        images, texts = features
        with model.evaluating(), self._precision(), self._competing(None if given else self._steps.met(self._step)):
            if model.routed is not None:
                found = [model(x, labels) for x, labels in self._own.on(model.device)]
            else:
                sizes = [len(x) for x, _ in self._own.batches]
                with _texts_known(model, texts.float()):
                    for of_batch, (_, labels) in zip(images.float().split(sizes), self._own.batches, strict=True):
                        found.append(model.classify(of_batch, labels.to(model.device)))
        return answered(rightness(torch.cat(found).cpu(), self._own.y)).numpy()

    def mapped(self, fit: Fit) -> Features:
        images, texts = self.trained
        if "image" in self.changed_towers:
            with self._precision():
                others = [torch.cat([of.features(self.model) for of in self._others])] if self._others else []
                with self.opened().way_back() as model:
                    others_then = [torch.cat([of.features(model) for of in self._others])] if self._others else []
            order = torch.arange(len(images), device=images.device)
            halves, images = (order % 2 == 0, order % 2 == 1), images.clone()
            for applied, fitted in (halves, halves[::-1]):
                now = torch.cat([self.trained[0][fitted], *others])
                then = torch.cat([self.reference[0][fitted], *others_then])
                images[applied] = (self.trained[0][applied].double() @ fit(now, then)).to(images.dtype)
        if "text" in self.changed_towers:
            texts = (texts.double() @ fit(texts, self.reference[1])).to(texts.dtype)
        return images, texts

    @contextmanager
    def _competing(self, met: torch.Tensor | None) -> Iterator[None]:
        """Within it these classes count as met; None leaves those of now."""
        competing = self.model.competing
        now = competing.met
        try:
            competing.met = now if met is None else met
            yield
        finally:
            competing.met = now


class _Known(TextHead):
    """Text features of all classes that are known already."""

    def __init__(self, features: torch.Tensor, head: TextHead) -> None:
        super().__init__()
        self.prompts, self._features = head.prompts, features

    def features(self, model: object, classes: torch.Tensor, first: bool = False) -> torch.Tensor:
        return self._features[classes]


@contextmanager
def _texts_known(model: VLM, features: torch.Tensor) -> Iterator[None]:
    """Within it, the model's zero-shot head has these features ``[classes, D]``."""
    head = model.text_head
    try:
        model.text_head = _Known(features, head)
        yield
    finally:
        model.text_head = head
