"""Small towers of every order of their tensors."""

from __future__ import annotations

import torch
from open_clip.model import CLIP
from open_clip.transformer import Transformer

from avalanche_vlm.models import VLM, from_open_clip

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
CENTRED = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def wrap(clip) -> VLM:
    return from_open_clip(clip, lambda texts: torch.zeros(len(texts), 8, dtype=torch.long), image_size=32, **CENTRED)


def transformer(patch_dropout: float = 0.0) -> VLM:
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
    return wrap(CLIP(24, {**vision, "patch_dropout": patch_dropout}, TEXT))


def sequence_first() -> VLM:
    model = transformer()
    model.clip.visual.transformer = Transformer(32, 3, 2, batch_first=False)
    return model


def resnet() -> VLM:
    model = wrap(CLIP(24, {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8, "head_width": 8}, TEXT))
    # Zero weights at the end of every residual branch would leave nothing to test.
    for name, parameter in model.clip.visual.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)
    # With the statistics of nothing, features would hardly depend on the picture.
    with torch.no_grad():
        for _ in range(20):
            model.encode_image(pictures(16))
    return model


def pictures(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32)
