"""What heads that train share: which classes were learned, and the text features that they had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from avalanche_vlm.compat.modules import ResizesOnLoad
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory.accounting import StoredBytes, tensor_bytes
from avalanche_vlm.models.heads.analytic.base import widened


class LearnedClassesHead(ResizesOnLoad):
    """Base of a :attr:`~avalanche_vlm.models.VLM.class_head` that is trained task by task.

    Classes are columns, by their ids. What belongs to the past is frozen where it lies, so that an optimizer that holds
    it leaves it alone.

    :param scale: factor of cosines; the model's own makes logits comparable to the zero-shot ones.
    :param bias: number added to every logit, SigLIP's.
    """

    known: torch.Tensor
    texts: torch.Tensor

    trains = True

    def __init__(self, scale: float = 100.0, bias: float = 0.0) -> None:
        super().__init__()
        self.scale, self.bias = scale, bias
        self.open = False
        """Whether the last task still trains."""
        self.register_buffer("known", torch.zeros(0, dtype=torch.bool))
        """Bool ``[C]``: classes whose text features are kept."""
        self.register_buffer("texts", torch.zeros(0, 0))
        """Unit-length text features ``[C, D]``, zero for the others."""

    @torch.no_grad()
    def keep(self, classes: torch.Tensor, texts: torch.Tensor) -> None:
        """Keep the text features of these classes, in the place of older ones.

        :param classes: ids of the classes ``[n]``.
        :param texts: text features of unit length ``[n, D]``.
        """
        size = max(len(self.known), int(classes.max()) + 1)
        before = self.texts.to(texts) if self.texts.numel() else texts.new_zeros(0, texts.shape[1])
        self.known = widened(self.known.to(texts.device), size)
        self.texts = widened(before, size, dim=0)
        self.known[classes] = True
        self.texts[classes] = texts.float()

    def columns(self, of_classes: torch.Tensor, classes: int) -> torch.Tensor:
        """A column ``[C]`` for each of all classes, zero (or False) for those that come later.

        :raises InputError: if there are fewer classes than were learned.
        """
        if len(of_classes) > classes:
            raise InputError(f"the head has learned class id {len(of_classes) - 1}, but there are only {classes}")
        return widened(of_classes, classes)

    def cosine_logits(self, features: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Scaled similarities of unit-length features ``[B, D]`` with ``[n, D]``, or row by row with ``[B, n, D]``."""
        if others.ndim == 2:
            return self.scale * features @ others.T + self.bias
        return self.scale * (others @ features[..., None])[..., 0] + self.bias

    def stored(self) -> StoredBytes:
        """Bytes of all parameters and buffers."""
        return StoredBytes(ram=tensor_bytes([*self.parameters(), *self.buffers()]))

    def extend_for(self, state: Mapping[str, Any]) -> None:
        """Have the parts of the tasks that a state has which is about to be loaded.

        :param state: the head's own entries, without prefix.
        """

    def prepare_load(self, state: Mapping[str, Any]) -> None:
        """Have the classes and tasks of the state."""
        if "known" in state:
            super().prepare_load(state)
            self.open = False
            self.extend_for(state)

    def get_extra_state(self) -> dict[str, Any]:
        """Whether a task is open, as values that JSON has; torch asks for it."""
        return {"open": self.open}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` gave; torch calls it."""
        self.open = state["open"]
