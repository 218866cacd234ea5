"""The shipped tiny CLIP: 1.5 M parameters, 32 x 32 pixels, pretrained on the clean picturebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.models.tiny.shipped import (
        FOLDER,
        IMAGE_SIZE,
        MEAN,
        STD,
        WEIGHTS,
        architecture,
        build_tiny,
        build_tokenizer,
    )
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["FOLDER", "IMAGE_SIZE", "MEAN", "STD", "WEIGHTS", "architecture", "build_tiny", "build_tokenizer"]
