"""The architecture, the tokenizer and the files of the shipped tiny CLIP."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm.errors import InputError

if TYPE_CHECKING:
    from open_clip.model import CLIP

    from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer

FOLDER = Path(__file__).parent
"""Where the weights lie with their description."""
WEIGHTS = FOLDER / "model.safetensors"
"""The weights."""
MEAN = (0.5, 0.5, 0.5)
"""What is taken from images, whose values are from 0 to 1."""
STD = MEAN
"""What the rest is divided by: values from -1 to 1 come out."""
IMAGE_SIZE = 32
"""Width and height of an image, in pixels."""


@cache
def _config() -> dict[str, Any]:
    return json.loads((FOLDER / "config.json").read_text())


def build_tokenizer() -> WordTokenizer:
    """The tokenizer, without the model."""
    from avalanche_vlm.benchmarks.picturebook.tokenizer import WordTokenizer

    config = _config()
    return WordTokenizer(config["words"], config["text_cfg"]["context_length"])


def architecture(image_size: int = IMAGE_SIZE) -> dict[str, Any]:
    """What open_clip's ``CLIP`` is built with, in its terms: ``embed_dim``, ``vision_cfg``, ``text_cfg``.

    :param image_size: side of the input in pixels.
    """
    config = _config()
    return {
        "embed_dim": config["embed_dim"],
        "vision_cfg": {**config["vision_cfg"], "image_size": image_size},
        "text_cfg": {**config["text_cfg"], "vocab_size": build_tokenizer().vocab_size},
    }


def build_tiny(image_size: int = IMAGE_SIZE, precision: str = "fp32") -> tuple[CLIP, WordTokenizer]:
    """The untrained architecture and its tokenizer, from ``config.json`` beside this file.

    :param image_size: side of the input in pixels.
    :param precision: what the weights are in, by open_clip's name.
    :raises InputError: if the image is smaller than a patch.
    """
    from open_clip.model import CLIP, convert_weights_to_lp, get_cast_dtype, get_input_dtype

    config = architecture(image_size)
    if image_size < (patch := config["vision_cfg"]["patch_size"]):
        raise InputError(f"image_size={image_size} is less than a patch of the tiny model's, which is {patch}")
    clip = CLIP(**config, cast_dtype=get_cast_dtype(precision))
    dtype = get_input_dtype(precision)
    if precision.startswith("pure_"):
        clip.to(dtype)
    elif dtype is not None:
        convert_weights_to_lp(clip, dtype)
    return clip, build_tokenizer()
