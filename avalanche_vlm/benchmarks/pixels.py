"""Pictures of any mode as RGB with 8 bits per channel."""

from __future__ import annotations

import numpy as np
from PIL import Image

from avalanche_vlm.errors import InputError

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras, scanners and microscopes use of the 16 in a file."""
_UNDERSHOOT = 0.01
"""Share of the largest value that numbers may lie below 0, as they do after resampling: they are black."""


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB: transparency laid on white, wide values scaled to 8 bits instead of clipped or cut. One that is
    RGB and in memory is returned as it is.

    :param image: a picture of any mode.
    """
    if image.mode == "RGB" and type(image) is Image.Image and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = from_wide(np.asarray(image))
    if image.mode == "La":  # premultiplied, which has one way out
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def from_wide(values: np.ndarray) -> Image.Image:
    """A picture of integers beyond 8 bits, or of floating-point numbers.

    What counts as white follows from the largest value, since files do not say how many of their bits are used: see
    :func:`white_of`. Within one depth all pictures are scaled alike, so that dark ones stay dark.

    :param values: ``[H, W]`` or ``[H, W, C]``; what is no number is black.
    :raises InputError: for negative values, as of computed tomography or of normalised pictures, beyond what resampling
        leaves: nothing says which value is black.
    """
    values = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if low < -_UNDERSHOOT * high:
        raise InputError(
            f"an image has values from {low:.4g} to {high:.4g}, and nothing says which is black: shift and scale them "
            "to start from 0 (for computed tomography, by the window that is to be seen)"
        )
    top = white_of(high, fractions=bool((values % 1).any()))
    return Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8))


def white_of(largest: float, fractions: bool = False) -> float:
    """The value that stands for white in a picture: the largest of the smallest depth of :data:`DEPTHS` that holds it.

    :param largest: the largest value in the picture.
    :param fractions: whether there are values that are no whole numbers: up to 1, these are shares of white.

    >>> white_of(200), white_of(3000), white_of(65535), white_of(0.5, fractions=True), white_of(1e6)
    (255.0, 4095.0, 65535.0, 1.0, 1000000.0)
    """
    if fractions and largest <= 1:
        return 1.0
    return float(next((2**bits - 1 for bits in DEPTHS if largest < 2**bits), largest))
