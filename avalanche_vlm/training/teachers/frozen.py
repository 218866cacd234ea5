"""Frozen copies of the model that is being trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from avalanche_vlm.benchmarks.padding import Padding
from avalanche_vlm.compat.tensors import version_of
from avalanche_vlm.errors import InputError
from avalanche_vlm.memory import StoredBytes, tensor_bytes
from avalanche_vlm.memory.state import TRANSIENT, StateDict, Stateful
from avalanche_vlm.models import VLM


class Teacher(Stateful):
    """What a model was when this was made: in eval mode for ever, without gradients.

    Weights that are frozen in the student are shared with it, since they are the same in both; only what trains is
    copied. The copy is no module, so a model or strategy that holds a teacher does not train or count it. It follows
    its inputs to their device.

    :param model: the student, whose copy the teacher is.
    """

    # Read and written by this class's own state_dict and load_state_dict.
    states: ClassVar = {"_model": TRANSIENT, "_shared": TRANSIENT, "_versions": TRANSIENT}

    def __init__(self, model: VLM) -> None:
        self.refresh(model)

    def refresh(self, model: VLM) -> None:
        """Become what the model is now: the *previous* teacher, when called as a task starts."""
        self._model: VLM | None = None  # the old copy goes before the new one comes: never two at a time
        frozen = {id(p) for p in model.parameters() if not p.requires_grad}
        teacher = model.frozen_copy()
        self._shared = {name: p for name, p in teacher.named_parameters() if id(p) in frozen}
        self._model = teacher
        self._trust_shared()

    @torch.no_grad()
    def encode_image(self, images: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """Image features ``[B, D]``, float32, of unit length if ``normalize``.

        :raises InputError: if what it shares with the student trains by now, or was written to.
        """
        return self._at(images.device).encode_image(images, normalize)

    @torch.no_grad()
    def encode_text(
        self, tokens: torch.Tensor, normalize: bool = True, padding: Padding | None = None, kept: bool = True
    ) -> torch.Tensor:
        """Text features ``[B, D]`` of token ids ``[B, L]``, float32, of unit length if ``normalize``.

        :param padding: the padding of these texts, as :meth:`~avalanche_vlm.models.encoder.DualEncoder.encode_text`
            has it.
        :param kept: whether the features outlive the step that asks for them.
        :raises InputError: if what it shares with the student trains by now, or was written to.
        """
        return self._at(tokens.device).encode_text(tokens, normalize, padding=padding, kept=kept)

    @torch.no_grad()
    def similarity(self, image_features: torch.Tensor, text_features: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, N]`` of unit-length features ``[B, D]`` and ``[N, D]``, with the teacher's own scale."""
        return self._at(image_features.device).similarity(image_features, text_features)

    @property
    def scale(self) -> torch.Tensor:
        """What the teacher's similarities are multiplied by."""
        return self.model.scale.detach()

    @property
    def model(self) -> VLM:
        """The copy itself."""
        assert self._model is not None
        return self._model

    def stored(self) -> StoredBytes:
        """Bytes of the weights and buffers that are the teacher's own; what it shares is the student's."""
        return StoredBytes(ram=tensor_bytes(self._held()))

    def state_dict(self) -> StateDict:
        """The weights that are the teacher's own, and its buffers; what it shares, the student's state has."""
        return {name: tensor.detach() for name, tensor in self._state().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what another teacher was. Load the state of the student first, with which this one shares weights.

        :param state: what :meth:`state_dict` of a teacher of an equal student gave.
        :raises InputError: if it has other weights; nothing has changed then.
        """
        mine = self._state()
        if mine.keys() != state.keys():
            odd = min(mine.keys() ^ state.keys())
            raise InputError(f"the state of a frozen copy does not fit its student: only one of them has {odd}")
        for name, tensor in mine.items():
            tensor.copy_(state[name])
        self._trust_shared()

    def _state(self) -> dict[str, torch.Tensor]:
        return {**self.own(), **{f"clip.{name}": buffer for name, buffer in self.model.clip.named_buffers()}}

    def _trust_shared(self) -> None:
        """Take the shared weights for right as they are now."""
        self._versions = {name: version_of(p) for name, p in self._shared.items()}

    def _at(self, device: torch.device) -> VLM:
        for name, parameter in self._shared.items():
            if parameter.requires_grad:
                raise InputError(
                    f"the teacher shares {name} with its student, which trains it now: unfreeze it before the teacher "
                    "is made, or refresh the teacher"
                )
            if version_of(parameter) != self._versions[name]:
                raise InputError(
                    f"the teacher shares {name}, which is frozen in its student, but was written to since: the teacher "
                    "is no longer what it was"
                )
        if any(tensor.device != device for tensor in self._held()):
            self.model.to(device)  # what is shared is there already, or the student could not take these inputs
        return self.model

    def own(self) -> dict[str, torch.Tensor]:
        """The weights by name that are the teacher's own, and not shared with the student."""
        return {name: p for name, p in self.model.named_parameters() if name not in self._shared}

    @torch.no_grad()
    def take_buffers(self, model: VLM) -> None:
        """Statistics of normalisation layers as the student has them."""
        for mine, other in zip(self.model.clip.buffers(), model.clip.buffers(), strict=True):
            mine.copy_(other)

    def _held(self) -> list[torch.Tensor]:
        return [*self.own().values(), *self.model.buffers()]
