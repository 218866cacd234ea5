"""The shipped model, made once and copied: what many tests begin with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch

from avalanche_vlm.models import VLM, create_vlm
from avalanche_vlm.models.tiny import shipped

_made: dict[tuple[str | None, bytes, Path], tuple[VLM, torch.Tensor]] = {}


def tiny(pretrained: Literal["random"] | None = None) -> VLM:
    """``create_vlm("tiny", pretrained)``, which draws from torch's generator: what it gives, and where it leaves the
    generator, is known for a generator in the same state."""
    key = pretrained, torch.get_rng_state().numpy().tobytes(), shipped.WEIGHTS
    if key not in _made:
        model = create_vlm("tiny", pretrained)
        if len(_made) < 16:
            _made[key] = copy.deepcopy(model), torch.get_rng_state()
        return model
    model, after = _made[key]
    torch.set_rng_state(after)
    return copy.deepcopy(model)
