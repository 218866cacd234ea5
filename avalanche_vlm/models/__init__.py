"""Vision-language models: one wrapper, a factory, parameter-efficient modules and routers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avalanche_vlm._lazy import attach

if TYPE_CHECKING:
    from avalanche_vlm.models.competing import MASKED
    from avalanche_vlm.models.factory import create_vlm, from_open_clip
    from avalanche_vlm.models.vlm import VLM
else:
    __getattr__, __dir__ = attach(__name__, __file__)

__all__ = ["MASKED", "VLM", "create_vlm", "from_open_clip"]
