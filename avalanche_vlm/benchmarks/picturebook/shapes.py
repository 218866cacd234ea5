"""The picturebook's shapes as signed distances: negative inside, 0 on the contour, y downwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From local coordinates of pixels to their signed distances, all of one shape."""


def _box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float) -> np.ndarray:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _polygon(vertices: Sequence[tuple[float, float]] | np.ndarray) -> Distance:
    """Exact signed distance to a closed polygon (vertices in order, y downwards)."""
    points = np.array(vertices, dtype=np.float32)

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        nearest = np.full(u.shape, np.inf, dtype=np.float32)
        inside = np.zeros(u.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
            ex, ey = bx - ax, by - ay
            du, dv = u - ax, v - ay
            t = np.clip((du * ex + dv * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (du - t * ex) ** 2 + (dv - t * ey) ** 2)
            if ey != 0:
                crosses = ((ay > v) != (by > v)) & (u < ex * (v - ay) / ey + ax)
                inside ^= crosses
        return np.where(inside, -1, 1) * np.sqrt(nearest)

    return distance


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - 1


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Two discs and the triangle that touches them.
    lobes = np.sqrt((np.abs(u) - 0.48) ** 2 + (v + 0.35) ** 2) - 0.52
    tip = _polygon([(-0.94, -0.1), (-0.45, -0.35), (0.45, -0.35), (0.94, -0.1), (0, 1)])
    return np.minimum(lobes, tip(u, v))


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(_circle(u, v), 0.82 - np.sqrt((u - 0.5) ** 2 + v * v))


def _star_vertices() -> np.ndarray:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    lengths = np.where(np.arange(10) % 2 == 0, 1.1, 0.45)
    return np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=1)


DISTANCES: dict[str, Distance] = {
    "circle": _circle,
    "square": lambda u, v: _box(u, v, 0.86, 0.86),
    "triangle": _polygon([(0, -1), (1, 0.8), (-1, 0.8)]),
    "diamond": lambda u, v: (np.abs(u) / 0.75 + np.abs(v) / 1.1 - 1) * 0.62,
    "star": _polygon(_star_vertices()),
    "cross": lambda u, v: np.minimum(_box(u, v, 1, 0.33), _box(u, v, 0.33, 1)),
    "ring": lambda u, v: np.abs(_circle(u, v) + 0.26) - 0.26,
    "heart": _heart,
    "crescent": _crescent,
    "arrow": _polygon([(1.1, 0), (0.1, -0.85), (0.1, -0.32), (-1.05, -0.32), (-1.05, 0.32), (0.1, 0.32), (0.1, 0.85)]),
}
"""Shapes by name, in a circle of radius about 1."""
