"""Pictures as small files in text, which a page can show."""

from __future__ import annotations

import base64
import io
from typing import Literal

import torch

_SIDE = 96
"""Pixels along the longer side of a thumbnail, at most."""
_EXACT = 64
"""Pixels up to which a picture is kept as it is."""


def thumbnail(pixels: torch.Tensor) -> tuple[Literal["png", "jpeg"], str]:
    """A picture of at most 96 pixels a side: a small one as it is, a larger one by JPEG.

    :param pixels: uint8 ``[3, H, W]`` on the CPU.
    :return: the form of the file, and the file in base64.

    >>> form, text = thumbnail(torch.zeros(3, 8, 8, dtype=torch.uint8))
    >>> form, base64.b64decode(text)[:4]
    ('png', b'\\x89PNG')
    """
    from PIL import Image

    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    exact = max(picture.size) <= _EXACT
    picture.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    if exact:
        picture.save(content, "PNG", optimize=True)
    else:
        picture.save(content, "JPEG", quality=82)
    return ("png" if exact else "jpeg"), base64.b64encode(content.getvalue()).decode()
