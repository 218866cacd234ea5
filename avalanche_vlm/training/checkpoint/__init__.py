"""Trainings that are killed and go on as if they had not been."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.training.checkpoint.plugin import CheckpointPlugin
    from avalanche_vlm.training.checkpoint.resuming import resume
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["CheckpointPlugin", "resume"]
