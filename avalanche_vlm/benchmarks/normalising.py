"""torchvision's ``ToTensor`` and ``Normalize`` at about half their time: the same numbers to the last bit, computed in
place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image


def in_place(transform: Callable[[Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    """A transform that computes what another does, without a copy of the picture for every step of arithmetic.

    :param transform: any; one that is torchvision's ``Compose`` of its own steps and open_clip's, the last of which are
        ``ToTensor`` and ``Normalize`` for three channels, is hastened, others are returned as they are.
    """
    from torchvision.transforms import Compose, Normalize, ToTensor

    steps = list(transform.transforms) if isinstance(transform, Compose) else []
    if type(transform) is not Compose or len(steps) < 2 or not all(map(_known, steps)):
        return transform
    *before, to_tensor, normalize = steps
    if not isinstance(to_tensor, ToTensor) or type(normalize) is not Normalize:
        return transform
    if not all(isinstance(of, tuple | list) and len(of) == 3 for of in (normalize.mean, normalize.std)):
        return transform
    if not all(normalize.std):
        return transform
    return _InPlace(before, to_tensor, normalize)


def _known(step: object) -> bool:
    """Whether a step is torchvision's or open_clip's, which leave the picture that they are given as it is."""
    return type(step).__module__.split(".")[0] in ("torchvision", "open_clip")


class _InPlace:
    """Steps on a picture, and the two that make it a tensor."""

    def __init__(self, before: Sequence[Callable[[Any], Any]], to_tensor: Any, normalize: Any) -> None:
        self.before, self.to_tensor, self.normalize = before, to_tensor, normalize
        self._mean, self._std = (
            torch.tensor(of, dtype=torch.float32, device="cpu").view(-1, 1, 1) for of in (normalize.mean, normalize.std)
        )

    def __call__(self, image: Any) -> torch.Tensor:
        for step in self.before:
            image = step(image)
        usual = isinstance(image, Image.Image) and image.mode == "RGB" and torch.get_default_dtype() == torch.float32
        if not usual:
            return self.normalize(self.to_tensor(image))
        found = torch.empty(3, image.height, image.width, device="cpu")
        channels = found.numpy()
        for number, band in enumerate(image.split()):
            channels[number] = np.asarray(band)
        # In torchvision's order: to multiply by reciprocals would round otherwise.
        return found.div_(255).sub_(self._mean).div_(self._std)
