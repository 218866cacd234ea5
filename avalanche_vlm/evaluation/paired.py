"""What was lost between two answers to the same questions, with an interval: in plain Python, from right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, hypot, sqrt
from statistics import NormalDist
from typing import NamedTuple


class PairedLoss(NamedTuple):
    """How much lower a share of right answers is than it was.

    :param value: share before less share after, in [-1, 1]; below 0 where it is higher than it was.
    :param low: lowest loss that the answers do not speak against.
    :param high: highest loss that the answers do not speak against.
    :param samples: number of questions.
    """

    value: float
    low: float
    high: float
    samples: int


def wilson_interval(share: float, samples: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (J. Am. Stat. Assoc. 22, 1927, pp. 209-212), without continuity correction.

    :param share: share of right answers, in [0, 1].
    :param samples: number of answers, at least 1.
    :param level: confidence, in (0, 1).
    :return: lowest and highest share in [0, 1].

    >>> [round(bound, 4) for bound in wilson_interval(0.5, 10)]
    [0.2366, 0.7634]
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z * z / (2 * samples)
    spread = z * sqrt(max(0.0, share * (1 - share)) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    # Rounding must not take a share of 0 or 1 out of its interval.
    return max(0.0, min(share, (middle - spread) / scale)), min(1.0, max(share, (middle + spread) / scale))


def paired_loss(
    before: Sequence[float], after: Sequence[float], level: float = 0.95, independent: int | None = None
) -> PairedLoss:
    """The loss of a share of right answers, and its interval: method 10 of R. G. Newcombe, "Improved confidence
    intervals for the difference between binomial proportions based on paired data", Stat. Med. 17, 1998, pp. 2635-2650.

    With Wilson's bounds l and u of both shares p and the correlation phi of the answers, the bounds are the loss less
    the root of ``(p1 - l1)^2 - 2 phi (p1 - l1) (u2 - p2) + (u2 - p2)^2``, and the same with the other bounds above.
    phi has Newcombe's continuity correction, n / 2 off the numerator where it is positive, not below 0. Fractions, by
    which ties count, enter as expectations: their true spread is smaller, so that the interval is no narrower than the
    level says.

    :param before: how right each answer was, in [0, 1].
    :param after: how right the answers to the same questions are now.
    :param level: confidence, in (0, 1).
    :param independent: how many of the questions are independent of each other, where several ask for one image; all
        by default.

    >>> found = paired_loss([1] * 20 + [1] * 12 + [0] * 2 + [0] * 16, [1] * 20 + [0] * 12 + [1] * 2 + [0] * 16)
    >>> [round(number, 4) for number in found[:3]]  # Newcombe's table II, example a = 20, b = 12, c = 2, d = 16
    [0.2, 0.0562, 0.3292]
    """
    n = independent or len(before)
    first, second = fsum(before) / len(before), fsum(after) / len(after)
    both = fsum(a * b for a, b in zip(before, after, strict=True)) / len(before)
    numerator = n * n * (both - first * second)  # a d - b c
    numerator = max(0.0, numerator - n / 2) if numerator > 0 else numerator
    margins = n * n * sqrt(max(0.0, first * (1 - first) * second * (1 - second)))
    phi = max(-1.0, min(1.0, numerator / margins)) if margins > 0 else 0.0
    (low1, high1), (low2, high2) = (wilson_interval(share, n, level) for share in (first, second))
    down, up = (first - low1, high2 - second), (high1 - first, second - low2)
    value = first - second
    return PairedLoss(value, value - _combined(*down, phi), value + _combined(*up, phi), len(before))


def mean_loss(losses: Sequence[PairedLoss]) -> PairedLoss:
    """The mean of losses on sets of questions that have nothing to do with each other, each set counting once.

    The interval joins theirs by their distances from the values, squared and added: G. Y. Zou and A. Donner,
    "Construction of confidence limits about effect measures: a general approach", Stat. Med. 27, 2008, pp. 1693-1702.

    :param losses: one per set, at least one.

    >>> mean_loss([PairedLoss(0.25, 0.125, 0.5, 10), PairedLoss(0.75, 0.625, 1.0, 30)])[::3]
    (0.5, 40)
    """
    count = len(losses)
    value = fsum(loss.value for loss in losses) / count
    below, above = (hypot(*(getattr(loss, side) - loss.value for loss in losses)) / count for side in ("low", "high"))
    return PairedLoss(value, value - below, value + above, sum(loss.samples for loss in losses))


def _combined(first: float, second: float, phi: float) -> float:
    return sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))
