"""The shipped tiny CLIP: 1.5 M parameters, 32 x 32 pixels, pretrained on the clean picturebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_clip.model import CLIP

    from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "model.safetensors"
MEAN = STD = (0.5, 0.5, 0.5)
IMAGE_SIZE = 32


def build_tokenizer() -> WordTokenizer:
    """The tokenizer, without the model."""
    from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer

    config = json.loads((FOLDER / "config.json").read_text())
    return WordTokenizer(config["words"], config["text_cfg"]["context_length"])


def build_tiny() -> tuple[CLIP, WordTokenizer]:
    """The untrained architecture and its tokenizer, from ``config.json`` beside this file."""
    from open_clip.model import CLIP

    config = json.loads((FOLDER / "config.json").read_text())
    tokenizer = build_tokenizer()
    text_cfg = {**config["text_cfg"], "vocab_size": tokenizer.vocab_size}
    return CLIP(config["embed_dim"], config["vision_cfg"], text_cfg), tokenizer
