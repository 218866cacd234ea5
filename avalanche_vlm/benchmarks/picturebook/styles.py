"""Styles: what moves a task away from the clean world. Functions on float pictures ``[N, 32, 32, 3]`` in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Style = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_CELLS = 5


def _clouds(rng: np.random.Generator, n: int, side: int, channels: int) -> np.ndarray:
    """Smooth random fields ``[n, side, side, channels]`` in [-1, 1]: a coarse grid, interpolated linearly."""
    coarse = rng.uniform(-1, 1, (n, _CELLS, _CELLS, channels)).astype(np.float32)
    position = np.linspace(0, _CELLS - 1, side, dtype=np.float32)
    weights = np.clip(1 - np.abs(position[:, None] - np.arange(_CELLS)[None]), 0, 1).astype(np.float32)
    return np.einsum("yi,nijc,xj->nyxc", weights, coarse, weights, optimize=True)


def _noise(rng: np.random.Generator, pictures: np.ndarray, sigma: float) -> np.ndarray:
    return pictures + sigma * rng.standard_normal(pictures.shape, dtype=np.float32)


def _blur(pictures: np.ndarray) -> np.ndarray:
    """A 3 x 3 binomial filter."""
    for axis in (1, 2):
        before = np.concatenate([pictures.take([0], axis), pictures], axis).take(range(pictures.shape[axis]), axis)
        after = np.concatenate([pictures, pictures.take([-1], axis)], axis).take(
            range(1, pictures.shape[axis] + 1), axis
        )
        pictures = 0.25 * before + 0.5 * pictures + 0.25 * after
    return pictures


def clean(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As drawn."""
    return pictures


def sketch(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pencil on rough paper: no colour, uneven ink."""
    gray = np.repeat(pictures.mean(-1, keepdims=True), 3, axis=-1)
    ink = (1 - gray) * (0.85 + 0.35 * _clouds(rng, len(gray), gray.shape[1], 1))
    paper = np.array([0.93, 0.90, 0.82], dtype=np.float32)
    return _noise(rng, paper * (1 - ink), 0.09)


def night(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blue light, little of it, and a noisy sensor."""
    light = np.array([0.38, 0.46, 0.78], dtype=np.float32)
    uneven = 0.85 + 0.3 * _clouds(rng, len(pictures), pictures.shape[1], 1)
    return _noise(rng, pictures * light * uneven + np.float32(0.03), 0.05)


def fabric(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Folds and a coarse weave."""
    folds = 0.8 + 0.4 * _clouds(rng, len(pictures), pictures.shape[1], 1)
    return _noise(rng, pictures * folds, 0.08)


def graffiti(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint on a wall that others painted before."""
    wall = 0.42 * _clouds(rng, len(pictures), pictures.shape[1], 3)
    return _noise(rng, pictures + wall, 0.04)


def faded(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bleached by the sun, with a yellow cast."""
    cast = np.array([0.80, 0.74, 0.58], dtype=np.float32)
    return _noise(rng, 0.55 * pictures + 0.45 * cast, 0.03)


def mosaic(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tiles of 2 x 2 pixels with uneven glaze."""
    n, height, width, channels = pictures.shape
    tiles = pictures.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    tiles = tiles + 0.14 * rng.standard_normal(tiles.shape, dtype=np.float32)
    return tiles.repeat(2, 1).repeat(2, 2)


def negative(pictures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photographic negative, grainy and out of focus."""
    return _noise(rng, 0.15 + 0.6 * _blur(_blur(1 - pictures)), 0.09)


STYLES: dict[str, Style] = {f.__name__: f for f in (clean, sketch, night, fabric, graffiti, faded, mosaic, negative)}
"""All styles by their names."""
