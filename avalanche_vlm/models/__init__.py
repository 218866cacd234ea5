"""Vision-language models: one wrapper, a factory, parameter-efficient modules and routers."""

from avalanche_vlm.models.competing import MASKED
from avalanche_vlm.models.factory import create_vlm, from_open_clip
from avalanche_vlm.models.vlm import VLM

__all__ = ["MASKED", "VLM", "create_vlm", "from_open_clip"]
