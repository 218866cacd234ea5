"""Teachers that do not change while a task trains: what they say of the same input is computed once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from avalanche_vlm.memory.state import KEPT, WORKING, Stateful
from avalanche_vlm.models import VLM
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.training.reference.base import Inputs, Numbers, Reference
from avalanche_vlm.training.teachers.base import Side
from avalanche_vlm.training.teachers.frozen import Teacher
from avalanche_vlm.training.teachers.store import FeatureStore


class _ConstantTeacher(Stateful):
    """The model as it was at some moment.

    Of a reference *set* its features are computed at that moment, by the model itself, and no copy of the weights is
    kept. Of inputs that are new in every batch a frozen copy computes them, texts that come again excepted.

    :param max_bytes: limit of the features in memory, in bytes; more goes to a file.
    :param folder: where that file is made; None takes the system's temporary folder.
    """

    states: ClassVar = {"_features": KEPT, "_first_text": WORKING, "_copy": KEPT, "_scale": WORKING}

    def __init__(self, max_bytes: int = 1 << 31, folder: str | Path | None = None) -> None:
        # A set's images, then texts: in one store, for a tensor takes half a kilobyte beside its elements.
        self._features = FeatureStore(max_bytes, folder)
        self._first_text = 0
        self._copy: Teacher | None = None
        self._scale = torch.ones(())

    def prepare(self, model: VLM, reference: Reference) -> None:
        return

    def start(self, model: VLM, reference: Reference, precision: AbstractContextManager[Any]) -> None:
        return

    def follow(self, model: VLM) -> None:
        return

    def end(self) -> None:
        return

    def side(self, inputs: Inputs) -> Side:
        def images(pictures: torch.Tensor) -> torch.Tensor:
            return self._encode_images(pictures, inputs.image_rows)

        def texts(prompts: Prompts) -> torch.Tensor:
            return self._encode_texts(prompts, inputs.text_rows)

        return Side.of(inputs, images, texts, self._scale)

    @property
    def copy(self) -> Teacher:
        """The frozen copy that answers for inputs that are new in every batch."""
        assert self._copy is not None, "a reference of batches or of a task's sets is answered by a copy"
        return self._copy

    def _become(self, model: VLM) -> None:
        if self._copy is None:
            self._copy = Teacher(model)
        else:
            self._copy.refresh(model)
        self._scale = model.scale.detach().clone()
        self._forget_features()

    def _compute(self, teacher: VLM | Teacher, model: VLM, reference: Reference) -> None:
        """Everything that the teacher has to say about a set."""
        self._forget_features()
        self._scale = teacher.scale.detach().clone()
        device = model.device
        texts = []
        with model.evaluating():
            for part in reference.chunks():
                if part.images is not None:
                    self._features.append(teacher.encode_image(part.images.to(device)))
                if part.texts is not None:
                    texts.append(part.texts)
            self._first_text = len(self._features)
            for prompts in texts:
                self._features.append(prompts.to(device).encode(teacher.encode_text))
        self._features.trim()

    def _forget_features(self) -> None:
        self._features.clear()
        self._first_text = 0

    def _forget(self) -> None:
        self._copy = None
        self._forget_features()

    @torch.no_grad()
    def _encode_images(self, pictures: torch.Tensor, rows: Numbers | None) -> torch.Tensor:
        if rows is None or self._first_text == 0:
            return self.copy.encode_image(pictures)
        rows = torch.arange(self._first_text)[rows if isinstance(rows, slice) else rows.cpu()]
        return self._features.rows(rows).to(pictures.device)

    @torch.no_grad()
    def _encode_texts(self, texts: Prompts, rows: Numbers | None) -> torch.Tensor:
        def compute(missing: Numbers) -> torch.Tensor:
            asked = texts if isinstance(missing, slice) else texts.of(missing)
            # What is kept of a task's own texts is gone with the task, and nothing that comes later depends on it.
            return asked.encode(partial(self.copy.encode_text, kept=False))

        if rows is None:
            return compute(slice(None))
        rows = slice(self._first_text, None) if isinstance(rows, slice) else rows + self._first_text
        return self._features.rows(rows, compute).to(texts.tokens.device)


class InitialTeacher(_ConstantTeacher):
    """The model as it was when the plugin was made: ZSCL's teacher (arXiv 2303.06628), the pretrained one.

    :param max_bytes: limit of the features in memory, in bytes; more goes to a file.
    :param folder: where that file is made; None takes the system's temporary folder.
    """

    def prepare(self, model: VLM, reference: Reference) -> None:
        if reference.lifetime == "always":
            self._compute(model, model, reference)
        else:
            self._become(model)

    def start(self, model: VLM, reference: Reference, precision: AbstractContextManager[Any]) -> None:
        if reference.lifetime == "task":
            with precision:
                self._compute(self.copy, model, reference)
        self._features.to(model.device)  # where the model was made is not where it trains

    def end(self) -> None:
        if self._copy is not None:
            self._forget_features()  # of captions and sets of one task; class prompts are few


class PreviousTeacher(_ConstantTeacher):
    """The model as the task started: LwF's teacher (arXiv 1606.09282). In the first task it is the model as given.

    Between tasks nothing is kept, for it is then the student itself.

    :param max_bytes: limit of the features in memory, in bytes; more goes to a file.
    :param folder: where that file is made; None takes the system's temporary folder.
    """

    def start(self, model: VLM, reference: Reference, precision: AbstractContextManager[Any]) -> None:
        with precision:
            if reference.lifetime == "batch":
                self._become(model)
            else:
                self._compute(model, model, reference)

    def end(self) -> None:
        self._forget()
