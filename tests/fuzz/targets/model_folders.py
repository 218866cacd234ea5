"""Folders of models: settings that are changed, and weights that no longer fit or are damaged."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random

from example import Example, WrongAccept
from mutators import changed

from targets import model_settings

SHARE, QUICK = 6, 8

_MOST = 4096
"""Settings with a larger number are for another target: they would be built."""


@cache
def _weights() -> bytes:
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save

    model = model_settings.SETTINGS["model_cfg"]
    torch.manual_seed(0)
    return save(CLIP(model["embed_dim"], model["vision_cfg"], model["text_cfg"]).state_dict())


def make(random: Random) -> Example:
    """Settings and weights of a folder, of which the one or the other is changed."""
    settings, weights = json.dumps(model_settings.SETTINGS).encode(), ""
    if random.randrange(4):
        settings = model_settings.make(random).content
    else:
        weights = changed(random, _weights()[:4096], (b"F16", b"F32", b"shape", b"\xff\xff\xc0\x7f")).hex()
    return Example("folder.json", json.dumps({"settings": settings.hex(), "weights": weights}).encode())


def check(example: Example, folder: Path) -> None:
    """A model that encodes, or a sentence; nothing of it has run."""
    import torch

    from avalanche_vlm.models import create_vlm
    from avalanche_vlm.models.model_settings import read_settings

    said = json.loads(example.content)
    (folder / "open_clip_config.json").write_bytes(bytes.fromhex(said["settings"]))
    changed_ = bytes.fromhex(said["weights"])
    (folder / "open_clip_model.safetensors").write_bytes(changed_ + _weights()[4096:] if changed_ else _weights())
    if _large(read_settings(folder / "open_clip_config.json")):
        return
    model = create_vlm(f"local-dir:{folder}")
    size = model.transforms.eval.size
    with torch.no_grad():
        found = model.encode_image(torch.zeros(1, 3, size, size))
    if not found.isfinite().all():
        raise WrongAccept("features that are not finite")


def _large(value: object) -> bool:
    if isinstance(value, dict):
        return any(_large(of) for key, of in value.items() if key != "vocab_size") or not _fits(
            value.get("vocab_size", 1), 50000
        )
    if isinstance(value, list):
        return any(map(_large, value))
    return not _fits(value, _MOST)


def _fits(value: object, most: int) -> bool:
    return not isinstance(value, (int, float)) or abs(value) <= most
