"""Teachers that follow the student: their features are computed anew in every iteration."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes
from avalanche_vlm.models import VLM
from avalanche_vlm.training.reference.base import Inputs, Reference
from avalanche_vlm.training.teachers.base import Side
from avalanche_vlm.training.teachers.frozen import Teacher
from avalanche_vlm.weights.moving import compatible_momentum, update_ema


class MovingAverageTeacher:
    """An exponential moving average of the student's weights (mean teacher, arXiv 1703.01780; MoCo's key encoder,
    arXiv 1911.05722, eq. 2).

    :param decay: in [0, 1].
    :param restart: start afresh from the student with every task; otherwise it goes on through the stream.
    :raises InputError: for a decay outside.
    """

    def __init__(self, decay: float = 0.999, restart: bool = False) -> None:
        if not 0 <= decay <= 1:
            raise InputError(f"the decay of a moving average lies in [0, 1], not {decay}")
        self.decay, self.restart = decay, restart
        self._copy: Teacher | None = None

    def prepare(self, model: VLM, reference: Reference) -> None:
        return

    def start(self, model: VLM, reference: Reference, precision: AbstractContextManager) -> None:
        if self._copy is None or self.restart:  # a task that was interrupted has left one
            self._copy = Teacher(model)

    def follow(self, model: VLM) -> None:
        update_ema(self._copy.own(), dict(model.named_parameters()), self.decay)
        self._copy.take_buffers(model)

    def end(self) -> None:
        if self.restart:
            self._copy = None

    def side(self, inputs: Inputs) -> Side:
        copy = self._copy
        images = None if inputs.images is None else lambda: copy.encode_image(inputs.images)
        texts = None if inputs.texts is None else torch.no_grad()(lambda: inputs.texts.encode(copy.encode_text))
        return Side(images, texts, copy.scale, inputs.text_of_image)

    def stored(self) -> StoredBytes:
        return StoredBytes() if self._copy is None else self._copy.stored()


class MomentumTeacher(MovingAverageTeacher):
    """CTP's compatible momentum (arXiv 2308.07146): in the first task a moving average of the student, then an average
    that follows the student and the model that the previous task left, see
    :func:`~avalanche_vlm.weights.moving.compatible_momentum`.

    As in the authors' code it starts afresh from the student with every task.

    :param decay: of the compatible momentum.
    :param first_decay: of the moving average in the first task.
    :raises InputError: for a decay outside [0, 1].
    """

    def __init__(self, decay: float = 0.9, first_decay: float = 0.995) -> None:
        super().__init__(first_decay, restart=True)
        if not 0 <= decay <= 1:
            raise InputError(f"the decay of the compatible momentum lies in [0, 1], not {decay}")
        self.compatible_decay = decay
        self._tasks = 0
        self._previous: dict[str, torch.Tensor] = {}

    def start(self, model: VLM, reference: Reference, precision: AbstractContextManager) -> None:
        super().start(model, reference, precision)
        if self._tasks:
            self._previous = {name: weight.clone() for name, weight in self._copy.own().items()}

    def follow(self, model: VLM) -> None:
        if not self._tasks:
            super().follow(model)
            return
        compatible_momentum(self._copy.own(), dict(model.named_parameters()), self._previous, self.compatible_decay)
        self._copy.take_buffers(model)

    def end(self) -> None:
        super().end()
        self._tasks += 1
        self._previous = {}
