"""What every teacher does, and what student and teachers are compared by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, Protocol

import torch

from avalanche_vlm._host import on_host
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.models import VLM
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training.reference.base import Inputs, Reference


class Side:
    """One model's features of the inputs, each computed when a loss first asks for it.

    :param images: makes the unit-length image features ``[B, D]``; None if there are no images.
    :param texts: makes the unit-length text features ``[N, D]``; None if there are no texts.
    :param scale: what the model multiplies cosines by, a scalar.
    :param text_of_image: which text each image belongs to, int64 ``[B]``, see
        :class:`~avalanche_vlm.training.reference.Inputs`.
    """

    def __init__(
        self,
        images: Callable[[], torch.Tensor] | None,
        texts: Callable[[], torch.Tensor] | None,
        scale: torch.Tensor,
        text_of_image: torch.Tensor | None,
    ) -> None:
        self._images, self._texts, self._text_of_image = images, texts, text_of_image
        self.scale = scale

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        encode_images: Callable[[torch.Tensor], torch.Tensor],
        encode_texts: Callable[[Prompts], torch.Tensor],
        scale: torch.Tensor,
    ) -> Side:
        """A model's features of inputs.

        :param inputs: what is encoded, when a loss first asks for it.
        :param encode_images: ``[B, 3, H, W]`` to unit-length features ``[B, D]``.
        :param encode_texts: N texts to unit-length features ``[N, D]``.
        :param scale: what the model multiplies cosines by.
        """
        images, texts = inputs.images, inputs.texts
        return cls(
            None if images is None else lambda: encode_images(images),
            None if texts is None else lambda: encode_texts(texts),
            scale,
            inputs.text_of_image,
        )

    @cached_property
    def images(self) -> torch.Tensor:
        """``[B, D]``.

        :raises InputError: if the reference has no images.
        """
        if self._images is None:
            raise InputError("this loss compares images, and its reference has none")
        return self._images()

    @cached_property
    def texts(self) -> torch.Tensor:
        """``[N, D]``.

        :raises InputError: if the reference has no texts.
        """
        if self._texts is None:
            raise InputError("this loss compares texts, and its reference has none")
        return self._texts()

    @cached_property
    def paired_texts(self) -> torch.Tensor:
        """``[B, D]``, row b the text of image b.

        :raises InputError: if the reference's texts are not those of its images.
        """
        if self._text_of_image is None or bool((on_host(self._text_of_image) < 0).any()):
            raise InputError("this loss compares pairs, and the reference's texts are not those of its images")
        return self.texts[self._text_of_image]

    @cached_property
    def cosines(self) -> torch.Tensor:
        """``[B, N]``, of images and texts."""
        return scaled_cosines(self.images, self.texts)

    @cached_property
    def logits(self) -> torch.Tensor:
        """``[B, N]``, scaled cosines of images and texts; without SigLIP's bias, to which no softmax answers."""
        return scaled_cosines(self.images, self.texts, self.scale)


def scaled_cosines(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """``[B, N]`` of unit-length features ``[B, D]`` and ``[N, D]``, in float32 whatever the precision around it:
    logits reach 100 and their differences decide."""
    with torch.autocast(images.device.type, enabled=False):
        return scale * images.float() @ texts.float().T


class TeacherPolicy(Protocol):
    """A teacher, and when it learns. One serves one plugin: what it keeps belongs to that plugin's reference.

    Ours are :class:`~avalanche_vlm.memory.state.Stateful`; so is yours to be, if its training is to be resumed.
    """

    def prepare(self, model: VLM, reference: Reference) -> None:
        """The plugin that asks it is made."""

    def start(self, model: VLM, reference: Reference, precision: AbstractContextManager[Any]) -> None:
        """A task starts; the reference has started already."""

    def follow(self, model: VLM) -> None:
        """The student has taken a step."""

    def end(self) -> None:
        """The task is over."""

    def side(self, inputs: Inputs) -> Side:
        """Its features of these inputs, without a gradient."""

    def stored(self) -> StoredBytes:
        """Bytes that it keeps between tasks."""
