"""Vectorised renderer of scenes, 32 x 32 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from avalanche_vlm.benchmarks.picturebook.glyphs import FONTS, sample_glyphs
from avalanche_vlm.benchmarks.picturebook.scenes import SHAPES, Scenes
from avalanche_vlm.benchmarks.picturebook.shapes import DISTANCES

SIDE = 32
"""Height and width of a picture in pixels."""

_CHUNK = 256  # scenes drawn at a time: keeps the temporaries (1 MiB each) inside the cache

_COLOUR_RGB = np.array(
    [
        (220, 30, 35),
        (245, 130, 20),
        (245, 220, 40),
        (40, 160, 60),
        (40, 200, 200),
        (40, 70, 220),
        (130, 50, 180),
        (245, 130, 190),
        (125, 75, 35),
    ],
    dtype=np.float32,
) / np.float32(255)
_GROUND_RGB = np.array(
    [
        (250, 250, 250),
        (10, 10, 10),
        (128, 128, 128),
        (15, 25, 90),
        (215, 195, 150),
        (175, 240, 205),
        (85, 20, 75),
        (150, 205, 245),
    ],
    dtype=np.float32,
) / np.float32(255)
_RADIUS = np.array([0.42, 0.58, 0.76], dtype=np.float32)
_CENTRE = np.array([(-0.24, 0), (0.24, 0), (0, -0.24), (0, 0.24), (0, 0)], dtype=np.float32)


@dataclass(frozen=True)
class Jitter:
    """How much a drawn object varies. Angles in radians, lengths relative to half the picture's side.

    :param angle: largest rotation of a shape, in radians.
    :param shear: largest horizontal shear (x += shear * y).
    :param scale: largest relative change of the size.
    :param offset: largest displacement along each axis.
    :param tint: largest change of each colour channel, channels in [0, 1].
    """

    angle: float = 0.15
    shear: float = 0.0
    scale: float = 0.08
    offset: float = 0.03
    tint: float = 0.04


@dataclass(frozen=True)
class Look:
    """Parts of the drawing that a style replaces.

    :param full_bleed: the object fills the picture (its pattern covers all of it).
    :param stroke: draw only the contour, this wide (relative to half the side); 0 fills the object.
    :param pattern_angle: rotate the pattern by up to this angle in radians.
    :param pattern_scale: relative change of the pattern's period, up to this much either way.
    """

    full_bleed: bool = False
    stroke: float = 0.0
    pattern_angle: float = 0.0
    pattern_scale: float = 0.0


def render(
    scenes: Scenes, rng: np.random.Generator, jitter: Jitter | None = None, look: Look | None = None
) -> np.ndarray:
    """Draw scenes.

    :param scenes: the N scenes to draw.
    :param rng: draws the jitter; the same generator state gives the same bytes.
    :return: float32 array ``[N, 32, 32, 3]`` in [0, 1].
    """
    jitter, look = jitter or Jitter(), look or Look()
    pictures = np.empty((len(scenes), SIDE, SIDE, 3), dtype=np.float32)
    for start in range(0, len(scenes), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        pictures[chunk] = _render_chunk(scenes[chunk], rng, jitter, look)
    return pictures


def to_uint8(pictures: np.ndarray) -> np.ndarray:
    """Float pictures ``[N, H, W, 3]`` in [0, 1] to uint8 ``[N, 3, H, W]``, rounded and clipped."""
    return np.ascontiguousarray((np.clip(pictures, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(0, 3, 1, 2))


def _render_chunk(scenes: Scenes, rng: np.random.Generator, jitter: Jitter, look: Look) -> np.ndarray:
    n = len(scenes)
    uniform = rng.uniform(-1, 1, (n, 13)).astype(np.float32)
    centre = _CENTRE[scenes.position] + jitter.offset * uniform[:, 0:2]
    radius = _RADIUS[scenes.size] * (1 + jitter.scale * uniform[:, 2])
    # Half-pixel centres, y downwards.
    axis = ((np.arange(SIDE, dtype=np.float32) + 0.5) * 2 / SIDE) - 1
    x = axis[None, None, :] - centre[:, 0, None, None]
    y = axis[None, :, None] - centre[:, 1, None, None]
    x, y = np.broadcast_arrays(x, y)
    x = x + (jitter.shear * uniform[:, 3])[:, None, None] * y
    u, v = _rotate(x, y, jitter.angle * uniform[:, 4])
    softness = np.float32(2 / SIDE)

    if look.full_bleed:
        coverage = np.ones((n, SIDE, SIDE), dtype=np.float32)
        distance = np.full_like(coverage, -1)
    else:
        distance = _distance(scenes, u, v, radius, font=rng.integers(0, len(FONTS), n))
        # A signed distance turns into coverage over one pixel: antialiasing without supersampling.
        solid = np.clip(0.5 - distance / softness, 0, 1)
        contour = np.clip(0.5 - (np.abs(distance + 0.06) - 0.06) / softness, 0, 1)
        coverage = np.where((scenes.pattern == 4)[:, None, None], contour, solid)
        if look.stroke:
            coverage = np.clip(0.5 - (np.abs(distance) - look.stroke) / softness, 0, 1)
    a, b = _rotate(x, y, look.pattern_angle * uniform[:, 5])
    coverage = coverage * _pattern_mask(scenes.pattern, a, b, 1 + look.pattern_scale * uniform[:, 6])

    ink = np.clip(_COLOUR_RGB[scenes.colour] + jitter.tint * uniform[:, 7:10], 0, 1)[:, None, None, :]
    ground = np.clip(_GROUND_RGB[scenes.ground] + jitter.tint * uniform[:, 10:13], 0, 1)[:, None, None, :]
    return ground + (ink - ground) * coverage[..., None]


def _rotate(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    return cos * x + sin * y, cos * y - sin * x


def _distance(scenes: Scenes, u: np.ndarray, v: np.ndarray, radius: np.ndarray, font: np.ndarray) -> np.ndarray:
    """Signed distance (negative inside, about the picture's own units) of every pixel to its object."""
    distance = np.empty_like(u)
    r = radius[:, None, None]
    for index, name in enumerate(SHAPES):
        (rows,) = np.nonzero(scenes.object == index)
        if len(rows):
            distance[rows] = DISTANCES[name](u[rows] / r[rows], v[rows] / r[rows]) * r[rows]
    (rows,) = np.nonzero(scenes.is_glyph)
    if len(rows):
        glyph = scenes.object[rows] - len(SHAPES)
        alpha = sample_glyphs(font[rows], glyph, u[rows] / r[rows], v[rows] / r[rows])
        distance[rows] = (0.5 - alpha) * (2 / SIDE)  # so that coverage equals alpha
    return distance


def _pattern_mask(pattern: np.ndarray, x: np.ndarray, y: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Share of the object's colour in every pixel, in [0, 1]; patterns have a period of about 6 pixels."""
    mask = np.ones_like(x)
    for index in (1, 2, 3):
        (rows,) = np.nonzero(pattern == index)
        if len(rows) == 0:
            continue
        frequency = (16.5 / scale[rows])[:, None, None]
        sx, sy = np.sin(frequency * x[rows]), np.sin(frequency * y[rows])
        wave = {1: sy + 0.15, 2: -(sx * sy + 0.15 * (sx + sy)) + 0.35, 3: sx * sy}[index]
        mask[rows] = np.clip(0.5 + 2.5 * wave, 0, 1)
    return mask
