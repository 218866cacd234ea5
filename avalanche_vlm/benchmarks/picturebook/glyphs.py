"""The picturebook's digits and letters: an atlas of their masks in several fonts."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from avalanche_vlm.benchmarks.picturebook.scenes import DIGITS, LETTERS

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "DejaVuSerif-Bold")
"""Files that matplotlib brings along, so that every machine draws the same pixels."""

_ATLAS_SIDE = 48


@lru_cache(maxsize=1)
def _atlas() -> np.ndarray:
    """Alpha masks ``[fonts, glyphs, 48, 48]`` in [0, 1], each glyph centred and 44 pixels high or wide."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    glyphs = [str(i) for i in range(len(DIGITS))] + [c.upper() for c in LETTERS]
    atlas = np.zeros((len(FONTS), len(glyphs), _ATLAS_SIDE, _ATLAS_SIDE), dtype=np.float32)
    for f, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / f"{name}.ttf"), 96)
        for g, character in enumerate(glyphs):
            canvas = Image.new("L", (192, 192))
            ImageDraw.Draw(canvas).text((40, 30), character, fill=255, font=font)
            cut = canvas.crop(canvas.getbbox())
            scale = 44 / max(cut.size)
            cut = cut.resize([max(1, round(s * scale)) for s in cut.size], Image.Resampling.BILINEAR)
            left, top = ((_ATLAS_SIDE - s) // 2 for s in cut.size)
            atlas[f, g, top : top + cut.height, left : left + cut.width] = np.asarray(cut, dtype=np.float32) / 255
    return atlas


def sample_glyphs(font: np.ndarray, glyph: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How much of each pixel a digit or a letter covers.

    :param font: index array ``[N]`` into :data:`FONTS`.
    :param glyph: index array ``[N]``: digits, then letters, in the order of their names.
    :param u: local coordinates ``[N, H, W]`` to the right, from -1 to 1 within the glyph.
    :param v: local coordinates ``[N, H, W]`` downwards, from -1 to 1 within the glyph.
    :return: float32 ``[N, H, W]`` in [0, 1], interpolated bilinearly; 0 outside.
    """
    atlas = _atlas()
    px = (u + 1) * (_ATLAS_SIDE / 2) - 0.5
    py = (v + 1) * (_ATLAS_SIDE / 2) - 0.5
    x0, y0 = np.floor(px).astype(np.int32), np.floor(py).astype(np.int32)
    fx, fy = px - x0, py - y0
    page = atlas[font, glyph]
    rows = np.arange(len(font))[:, None, None]
    last = _ATLAS_SIDE - 1

    def at(yy: np.ndarray, xx: np.ndarray) -> np.ndarray:
        value = page[rows, np.clip(yy, 0, last), np.clip(xx, 0, last)]
        return np.where((yy >= 0) & (yy <= last) & (xx >= 0) & (xx <= last), value, 0)

    top = at(y0, x0) * (1 - fx) + at(y0, x0 + 1) * fx
    bottom = at(y0 + 1, x0) * (1 - fx) + at(y0 + 1, x0 + 1) * fx
    return (top * (1 - fy) + bottom * fy).astype(np.float32)
