"""The Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def front(points: Mapping[str, Sequence[float]]) -> list[str]:
    """Names of the points that no other dominates: that is no worse in everything and better in something.

    :param points: points of equal length by name; more is better, so costs come with a minus.

    >>> front({"a": (1, 0), "b": (0, 1), "c": (0, 0), "d": (0, 1)})
    ['a', 'b', 'd']
    """
    return [name for name, point in points.items() if not any(dominates(other, point) for other in points.values())]


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """No worse in everything and better in something."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
