"""What a student says of a set's texts while its text tower stays as it is."""

from __future__ import annotations

import torch

from avalanche_vlm._host import on_host
from avalanche_vlm.models import VLM
from avalanche_vlm.models.autocast import autocast_dtype
from avalanche_vlm.models.heads.text import TextState
from avalanche_vlm.models.prompts import Prompts
from avalanche_vlm.models.towers import resting
from avalanche_vlm.training.reference.base import Numbers
from avalanche_vlm.training.teachers.store import FeatureStore

BLOCK = 64
"""Texts that are encoded together."""


class StillTexts:
    """A student's features of a set's texts, each computed once for as long as its text tower does not change.

    Texts are encoded in blocks of neighbours, when one of a block is first asked for. The last bits of a feature depend
    on what is encoded beside it: so they are the same whichever texts were asked for before, and in a training that
    goes on from a checkpoint, which holds none of them. The tower is in eval mode meanwhile.
    """

    def __init__(self) -> None:
        self._state: TextState | None = None
        self._store = FeatureStore()
        self._blocks: set[int] = set()

    def features(self, model: VLM, texts: Prompts, rows: Numbers) -> torch.Tensor:
        """Unit-length features ``[n, D]``, without a gradient.

        :param model: the student, of whose text tower nothing trains.
        :param texts: all texts of the set.
        :param rows: which of them are asked for, each once.
        """
        precision = autocast_dtype(model.device)
        state = TextState.of(model, None if precision is None else str(precision))
        if state != self._state:
            self.forget()
            self._state = state
        asked = torch.arange(len(texts))[rows if isinstance(rows, slice) else on_host(rows)]
        for block in (asked // BLOCK).unique().tolist():
            if block not in self._blocks:
                self._encode(model, texts, block)
        return self._store.rows(asked)

    def forget(self) -> None:
        """Have no features at hand."""
        self._state = None
        self._store.clear()
        self._blocks.clear()

    @torch.no_grad()
    def _encode(self, model: VLM, texts: Prompts, block: int) -> None:
        own = torch.arange(len(texts))[block * BLOCK : (block + 1) * BLOCK]
        with resting(model.tower("text")):
            features = texts.of(own).to(model.device).encode(model.encode_text)
        self._store.rows(own, lambda missing: features)
        self._blocks.add(block)
