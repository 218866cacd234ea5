"""Teachers that follow the student: their features are computed anew in every iteration."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import torch

from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.state import KEPT, TRANSIENT, WORKING, Stateful, part_of
from avalanche_vlm.models import VLM
from avalanche_vlm.models.modules.bank import named_weights
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training.reference.base import Inputs, Reference
from avalanche_vlm.training.teachers.base import Side
from avalanche_vlm.training.teachers.frozen import Teacher
from avalanche_vlm.weights.average import State
from avalanche_vlm.weights.moving import compatible_momentum, update_ema


class MovingAverageTeacher(Stateful):
    """An exponential moving average of the student's weights (mean teacher, arXiv 1703.01780; MoCo's key encoder,
    arXiv 1911.05722, eq. 2).

    :param decay: share of the average that stays at each step, in [0, 1].
    :param restart: start afresh from the student with every task; otherwise it goes on through the stream.
    :raises InputError: for a decay out of its range.
    """

    states: ClassVar = {"_copy": KEPT, "_student": TRANSIENT}

    def __init__(self, decay: float = 0.999, restart: bool = False) -> None:
        if not 0 <= decay <= 1:
            raise InputError(f"the decay of a moving average lies in [0, 1], not {decay}")
        self.decay, self.restart = decay, restart
        self._copy: Teacher | None = None
        self._student: VLM | None = None

    @property
    def copy(self) -> Teacher:
        """The average, while a task trains."""
        assert self._copy is not None, "a moving average is there once a task has started"
        return self._copy

    def prepare(self, model: VLM, reference: Reference) -> None:
        self._student = model

    def start(self, model: VLM, reference: Reference, precision: AbstractContextManager[Any]) -> None:
        if self._copy is None or self.restart:  # a task that was interrupted has left one
            self._copy = Teacher(model)

    def follow(self, model: VLM) -> None:
        update_ema(self.copy.own(), dict(named_weights(model)), self.decay)
        self.copy.take_buffers(model)

    def end(self) -> None:
        if self.restart:
            self._copy = None

    @torch.no_grad()
    def _texts(self, prompts: Prompts) -> torch.Tensor:
        return prompts.encode(partial(self.copy.encode_text, kept=False))

    def side(self, inputs: Inputs) -> Side:
        return Side.of(inputs, self.copy.encode_image, self._texts, self.copy.scale)

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        if self._copy is None and self._student is not None and part_of(state, "_copy"):
            self._copy = Teacher(self._student)


class MomentumTeacher(MovingAverageTeacher):
    """CTP's compatible momentum (arXiv 2308.07146): in the first task a moving average of the student, then an average
    that follows the student and the model that the previous task left, see
    :func:`~avalanche_vlm.weights.moving.compatible_momentum`.

    As in the authors' code it starts afresh from the student with every task.

    :param decay: share of the average that stays at each step of the compatible momentum, in [0, 1].
    :param first_decay: share that stays at each step of the moving average in the first task, in [0, 1].
    :raises InputError: for a decay out of its range.
    """

    states: ClassVar = {"_tasks": WORKING, "_previous": WORKING}

    def __init__(self, decay: float = 0.9, first_decay: float = 0.995) -> None:
        super().__init__(first_decay, restart=True)
        if not 0 <= decay <= 1:
            raise InputError(f"the decay of the compatible momentum lies in [0, 1], not {decay}")
        self.compatible_decay = decay
        self._tasks = 0
        self._previous: State = {}

    def start(self, model: VLM, reference: Reference, precision: AbstractContextManager[Any]) -> None:
        super().start(model, reference, precision)
        if self._tasks:
            self._previous = {name: weight.clone() for name, weight in self.copy.own().items()}

    def follow(self, model: VLM) -> None:
        if not self._tasks:
            super().follow(model)
            return
        compatible_momentum(self.copy.own(), dict(named_weights(model)), self._previous, self.compatible_decay)
        self.copy.take_buffers(model)

    def end(self) -> None:
        super().end()
        self._tasks += 1
        self._previous = {}
