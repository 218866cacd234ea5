"""In which numbers a training computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch

from avalanche_vlm.errors import InputError, NotFinite

Amp = Literal["bf16", "fp16"]
"""Precisions of autocast."""

_TYPES: dict[str | None, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def rounding_factors(allowed: bool) -> Iterator[None]:
    """Within a block CUDA's tensor cores may round the factors of products of 32-bit numbers to TF32's 19 bits, or may
    not, where torch lets convolutions do so unless it is told. Other devices compute as ever.

    :param allowed: whether they may.
    """
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    cuda.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before


LEAST_SCALE = 1e-6
"""Where a loss is multiplied by less and gradients overflow still, they do so whatever the factor is."""


class TrainPrecision:
    """Autocast for forward pass and criterion, and in fp16 a factor for the loss, without which small gradients would
    be zero there (Micikevicius et al., arXiv 1710.03740).

    The factor is torch's ``GradScaler``'s: halved in a step whose gradients overflow, and doubled after many that have
    not. Gradients are divided by it as soon as the backward pass is over, so that whoever reads, clips or projects them
    sees them as they are. A step that overflows is not taken (:attr:`skipped`).

    :param amp: ``"bf16"`` or ``"fp16"``; None computes in the weights' own.
    :param device: where it trains.
    :raises InputError: for another precision.
    """

    def __init__(self, amp: str | None, device: torch.device) -> None:
        if amp is not None and amp not in get_args(Amp):
            raise InputError(f"amp is None, {' or '.join(map(repr, get_args(Amp)))}, not {amp!r}")
        self.amp = amp
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.skipped = False
        """Whether the last step was not taken, because its gradients overflowed."""
        self._went_back = False  # whether the last backward pass has left gradients

    def begin(self) -> None:
        """Before a training: whatever a step that broke off has left is forgotten, all but the factor."""
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            self.scaler = torch.amp.GradScaler(self.device.type)
            self.scaler.load_state_dict(state)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward pass and criterion."""
        return nullcontext() if self.amp is None else torch.autocast(self.device.type, dtype=_TYPES[self.amp])

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss that goes backward.

        :param loss: the loss as it is, a scalar.
        """
        return self.scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Once the backward pass is over: gradients as they are.

        :param optimizer: the optimizer that holds the parameters.
        """
        if self.scaler.is_enabled():
            self._went_back = any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take a step in the place of ``optimizer.step()``, or skip it, where gradients are scaled.

        :param optimizer: the optimizer, whose gradients are as they are.
        :raises NotFinite: if gradients overflow at any scale.
        """
        if not self._went_back:  # gradients that joined afterwards were never scaled, and torch refuses such a step
            self.begin()
            self.skipped = False
            optimizer.step()
            return
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        self.skipped = (now := self.scaler.get_scale()) < before
        if now < LEAST_SCALE:
            raise NotFinite(
                "gradients in fp16 overflow however small the loss is made: lower the learning rate, or train with "
                "amp bf16"
            )

    def state_dict(self) -> dict[str, Any]:
        """The factor and how long ago it changed, as values that JSON has; empty where nothing is scaled."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        :param state: what it gave, of a training in the same precision.
        """
        self.scaler.load_state_dict(state)
