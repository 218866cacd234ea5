"""Kept pictures as training sees them: under the training transform of the experience that is trained."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import DataAttribute, TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.data_attribute import TaskLabels
from torch.utils.data import Dataset

from avalanche_vlm._generators import generators_kept
from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.benchmarks.transforms import ImageTransform
from avalanche_vlm.compat.data_sets import source_datasets, transform_of
from avalanche_vlm.errors import VLMWarning
from avalanche_vlm.memory import ExemplarMemory, Memory
from avalanche_vlm.training.data import images_of

Form = Callable[[torch.Tensor], Any]

_NOTHING = 1e-3
"""Less than a tenth of an 8-bit level of a normalised picture: ways to the same view that round differently."""


class TrainingView:
    """The training transform of a data set, applied to kept pictures.

    What was kept of a sample is its evaluation view, at the model's size, so the transform crops and mirrors that and
    not the original. It gets a picture in the form that the data set's own samples have, a PIL image or a tensor: the
    form under which the evaluation transform gives back the evaluation view of the first sample.

    :param dataset: the experience's data.
    :param transform: the model's evaluation transform, which kept pictures went through.
    :param augment: False for the pictures as they were kept.
    """

    def __init__(self, dataset: Any, transform: ImageTransform, augment: bool = True) -> None:
        self.transform = transform
        self._form: Form | None = None
        if not augment:
            return
        self._train = transform_of(dataset, "train")
        raw = next(source_datasets(dataset))[0][0]
        self._pair = isinstance(raw, tuple)
        seen = transform.to_uint8(images_of(dataset.eval()[0][0]))
        self._form = self._fitting(raw[0] if self._pair else raw, seen, transform_of(dataset, "eval"))

    def images(self, pixels: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Model inputs ``[n, 3, H, W]`` of kept pictures.

        :param pixels: uint8 pictures ``[n, 3, H, W]`` on the CPU.
        :param generator: where the transform's random numbers come from (torch's, Python's, numpy's); the global random
            states are left alone. None draws from these.
        """
        if self._form is None:
            return self.transform.from_uint8(pixels)
        with _drawing_from(generator):
            return torch.stack([self.image(picture) for picture in pixels])

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        """The model input ``[3, H, W]`` of one kept picture, with the global random state's draws.

        :param pixels: uint8 picture ``[3, H, W]`` on the CPU.
        """
        if self._form is None:
            return self.transform.from_uint8(pixels)
        return self._apply(self._train, self._form(pixels))

    def _apply(self, transform: Callable[[Any], Any], raw: Any) -> torch.Tensor:
        return images_of(transform((raw, "") if self._pair else raw))

    def _fitting(self, raw: Any, seen: torch.Tensor, evaluate: Callable[[Any], Any]) -> Form | None:
        wanted, best, smallest = self.transform.from_uint8(seen), None, float("inf")
        for form in self._forms(raw, seen):
            try:
                error = (self._apply(evaluate, form(seen)) - wanted).abs().mean().item()
            except Exception:  # a transform is anybody's, and raises what it likes for an input that it does not take
                continue
            if error < smallest - _NOTHING:
                best, smallest = form, error
        if best is None:
            warnings.warn(
                "the transforms of this experience take no kept picture, neither as a PIL image nor as a tensor: "
                "exemplars are replayed as they were kept, without augmentation",
                VLMWarning,
                stacklevel=2,
            )
        return best

    def _forms(self, raw: Any, seen: torch.Tensor) -> list[Form]:
        """The forms that a picture can have, the one of the data set's own samples first."""
        as_bytes, as_input = _same, self.transform.from_uint8
        if not isinstance(raw, torch.Tensor):
            return [_pil, as_bytes, as_input]
        if raw.dtype != torch.uint8:
            return [as_input, _unit, as_bytes, _pil]
        # Tensors of the model's size may pass a transform untouched that augments those of another size.
        return [as_bytes, _pil, as_input] if raw.shape == seen.shape else [_pil, as_bytes, as_input]


def reads_rows(memory: Any) -> bool:
    """Whether the samples of a memory can be read one by one, as :class:`ExemplarData` does.

    :param memory: a memory of any kind.
    """
    own = type(memory)
    declared = getattr(own, "read", Memory.read) is not Memory.read
    return declared and all(hasattr(own, name) for name in ("labels", "task_labels"))


class ExemplarData(Dataset):
    """A memory's exemplars as a data set: inputs under a training view, and labels.

    :param memory: the memory; it must not change while the data set is read.
    :param view: the view that every reading draws anew.
    """

    def __init__(self, memory: ExemplarMemory, view: TrainingView) -> None:
        self.memory, self.view = memory, view
        self.targets = memory.labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | ImageText, int]:
        row = self.memory.read([index])
        image = self.view.image(row["pixels"][0])
        return (ImageText(image, row["tokens"][0]) if "tokens" in row else image), self.targets[index]

    def experience_data(self) -> TaskAwareSupervisedClassificationDataset:
        """The same as an Avalanche data set, with the task label of every exemplar."""
        attributes = [DataAttribute(self.targets, "targets"), TaskLabels(self.memory.task_labels.tolist())]
        return TaskAwareSupervisedClassificationDataset([self], data_attributes=attributes)


def _same(pixels: torch.Tensor) -> torch.Tensor:
    return pixels


def _unit(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 255


def _pil(pixels: torch.Tensor) -> Any:
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(pixels)


@contextmanager
def _drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**32, (1,), generator=generator))
    with generators_kept():
        random.seed(seed)
        np.random.seed(seed)
        torch.set_rng_state(generator.get_state())
        yield
