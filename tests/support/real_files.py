"""Real image files for the loaders' tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth random RGB image."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    """Write an image, creating folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture(0)).save(path, **options)
    return path


def truncate(path: Path) -> Path:
    """Cut a file in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def transform(image: Image.Image) -> torch.Tensor:
    """Any PIL image to ``[3, 32, 32]``."""
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1).float() / 255


def raw(dataset):
    """The data set beneath Avalanche's layers."""
    while not hasattr(dataset, "images"):
        (dataset,) = dataset._datasets
    return dataset
