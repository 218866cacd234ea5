"""Losses that compare the student with teachers, on whatever reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from avalanche_vlm.benchmarks.image_text import ImageText
from avalanche_vlm.errors import InputError
from avalanche_vlm.losses.identity import true_captions
from avalanche_vlm.memory.state import KEPT, TRANSIENT, WORKING
from avalanche_vlm.models import VLM
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training.plugins.taps import FeatureTapPlugin
from avalanche_vlm.training.protocol import Strategy, model_of
from avalanche_vlm.training.reference.base import Inputs, Reference
from avalanche_vlm.training.strategies import autocast_of, took_step
from avalanche_vlm.training.teachers.base import Side, TeacherPolicy, scaled_cosines
from avalanche_vlm.training.teachers.still import StillTexts

StudentSide = Literal["image", "text", "both"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a loss gets to see: the same inputs through the student's eyes and through each teacher's.

    :param student: the student's eyes, with gradients.
    :param teachers: the teachers' eyes, without gradients, in the order in which the plugin was given them.
    :param past: number of experiences that were trained before this one.
    :param text_of_image: which text each image belongs to, int64 ``[B]``; None if images and texts have nothing to do
        with each other.
    :param y: ids of the minibatch that trains, ``[M]``.
    :param ids: identities of the pairs ``[B]`` where the inputs are those of an image-text minibatch, None elsewhere.
    :param true_texts: what the reference says of texts that are true of images, bool ``[B, N]``; None where it says
        nothing but ``text_of_image``.
    """

    student: Side
    teachers: tuple[Side, ...]
    past: int
    text_of_image: torch.Tensor | None
    y: torch.Tensor
    ids: torch.Tensor | None = None
    true_texts: torch.Tensor | None = None

    @property
    def teacher(self) -> Side:
        """The first teacher."""
        return self.teachers[0]

    @property
    def matches(self) -> torch.Tensor:
        """Bool ``[B, N]``: text n is true of image b, as far as the pairs say so.

        :raises InputError: if images and texts have nothing to do with each other.
        """
        if self.text_of_image is None:
            raise InputError(
                "this loss asks what belongs together, and the reference's texts are not those of its images"
            )
        if self.true_texts is not None:
            return self.true_texts
        texts = torch.arange(len(self.student.texts), device=self.text_of_image.device)
        own = self.text_of_image[:, None] == texts[None, :]
        if self.ids is None:
            return own
        # Of an image with several captions the others are no mistakes.
        return (true_captions(self.ids.to(own.device)).float() @ own.float()) > 0

    def logits(self, side: StudentSide = "both") -> torch.Tensor:
        """``[B, N]``, with the student's scale and its features on one side or both; the first teacher's elsewhere."""
        if side not in ("image", "text", "both"):
            raise InputError(f"the student's side is image, text or both, not {side!r}")
        images = (self.teacher if side == "text" else self.student).images
        texts = (self.teacher if side == "image" else self.student).texts
        return scaled_cosines(images, texts, self.student.scale)


Loss = Callable[[Comparison], torch.Tensor]


class DistillationPlugin(FeatureTapPlugin, supports_distributed=True):
    """Add to the training loss what a function makes of student and teachers on a reference.

    A method of the CREG family is such a function: what it compares (features, logits, similarity matrices, topology)
    is its own, and what is compared comes from the reference and the teachers. Nothing is encoded that it does not ask
    for, and what a constant teacher says of the same input is computed once, as is what the student says of a set's
    texts while nothing trains of its text tower.

    :param model: the student, as the initial teacher will know it.
    :param loss: takes a :class:`Comparison`, gives a scalar. One that keeps anything has a
        :class:`~avalanche_vlm.memory.state.Stateful`'s state.
    :param reference: what student and teachers are compared on.
    :param teachers: one teacher or several.
    """

    states: ClassVar = {"reference": KEPT, "loss": KEPT, "teachers": KEPT, "_past": WORKING, "_still": TRANSIENT}

    def __init__(
        self, model: VLM, loss: Loss, reference: Reference, teachers: TeacherPolicy | Sequence[TeacherPolicy]
    ) -> None:
        super().__init__()
        self.loss, self.reference = loss, reference
        self.teachers = tuple(teachers) if isinstance(teachers, Sequence) else (teachers,)
        self._past, self._still = 0, StillTexts()
        for teacher in self.teachers:
            teacher.prepare(model, reference)

    def before_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        self.reference.start(strategy)
        for teacher in self.teachers:
            teacher.start(model_of(strategy), self.reference, autocast_of(strategy))

    def before_backward(self, strategy: Strategy, **kwargs: Any) -> None:
        inputs = self.reference.next(strategy, self.features)
        if inputs is None:
            return
        with autocast_of(strategy):
            teachers = tuple(teacher.side(inputs) for teacher in self.teachers)
            x, student = strategy.mb_x, self._student(model_of(strategy), inputs)
            ids = strategy.mb_y if isinstance(x, ImageText) and inputs.images is x.image else None
            comparison = Comparison(
                student, teachers, self._past, inputs.text_of_image, strategy.mb_y, ids, inputs.true_texts
            )
            strategy.loss += self.loss(comparison)

    def after_update(self, strategy: Strategy, **kwargs: Any) -> None:
        for teacher in self.teachers if took_step(strategy) else ():
            teacher.follow(model_of(strategy))

    def after_training_exp(self, strategy: Strategy, **kwargs: Any) -> None:
        for teacher in self.teachers:
            teacher.end()
        self.reference.end()
        self._still.forget()
        self._past += 1

    def _student(self, model: VLM, inputs: Inputs) -> Side:
        def images(pictures: torch.Tensor) -> torch.Tensor:
            return model.encode_image(pictures) if inputs.student_images is None else inputs.student_images

        def texts(prompts: Prompts) -> torch.Tensor:
            if inputs.student_texts is not None:
                return inputs.student_texts
            if inputs.set_texts is None or inputs.text_rows is None or model.text_trains:
                return prompts.encode(model.encode_text)
            return self._still.features(model, inputs.set_texts, inputs.text_rows)

        return Side.of(inputs, images, texts, model.scale)
