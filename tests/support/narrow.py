"""The shipped model with narrow towers of random weights, a twentieth as costly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from avalanche_vlm.models import size, tiny
from avalanche_vlm.models.tiny import shipped

TOWERS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 3, "head_width": 16},
    "text_cfg": {"context_length": 20, "width": 32, "heads": 2, "layers": 2},
}


@contextmanager
def narrowed(folder: Path) -> Iterator[None]:
    """Within a block ``create_vlm("tiny")`` and the command line give the narrow model, in this process and its copies.

    :param folder: for its weights.
    """
    words = shipped._config()["words"]
    weights = folder / "model.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "_config", lambda: {**TOWERS, "words": words})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            save_file(tiny.build_tiny()[0].state_dict(), weights)
        patch.setattr(tiny, "WEIGHTS", weights)  # first: the package asks the module itself
        patch.setattr(shipped, "WEIGHTS", weights)
        size.weight_bytes.cache_clear()
        yield
    size.weight_bytes.cache_clear()
