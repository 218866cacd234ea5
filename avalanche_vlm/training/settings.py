"""How every task of a stream is trained."""

from __future__ import annotations

from dataclasses import dataclass

from avalanche_vlm.errors import InputError


@dataclass(frozen=True)
class TrainSettings:
    """How every task is trained.

    :param lr: peak learning rate of AdamW.
    :param epochs: passes over each task.
    :param batch_size: new samples per iteration.
    :param weight_decay: weight decay of AdamW, 0 or more.
    :param warmup: iterations of warm-up; then half a cosine.
    :param max_grad_norm: clip to this norm; None does not.
    :param amp: None or ``"bf16"``.
    :param num_workers: processes that load data.
    """

    lr: float = 1e-5
    epochs: int = 5
    batch_size: int = 64
    weight_decay: float = 0.0
    warmup: int = 0
    max_grad_norm: float | None = 1.0
    amp: str | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "epochs", "batch_size"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} must be positive, not {getattr(self, name)}")
