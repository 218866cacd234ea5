"""The exact interval of a share of right answers, in plain Python: the report waits for no numpy."""

from __future__ import annotations

from math import exp, lgamma, log, log1p


def binomial_interval(right: float, samples: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share ("The use of confidence or fiducial limits", Biometrika 26, 1934,
    pp. 404-413): quantiles of the beta distribution.

    :param right: number of right answers; a fraction counts as such.
    :param samples: number of answers, at least 1.
    :param level: confidence, in (0, 1).
    :return: lowest and highest share in [0, 1] that the answers do not speak against.

    >>> [round(bound, 3) for bound in binomial_interval(20, 40)], binomial_interval(0, 1)[0], binomial_interval(4, 4)[1]
    ([0.338, 0.662], 0.0, 1.0)
    """
    tail = (1 - level) / 2
    low = _quantile(tail, right, samples - right + 1) if right > 0 else 0.0
    high = _quantile(1 - tail, right + 1, samples - right) if right < samples else 1.0
    return low, high


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function ``I_x(a, b)``, by its continued fraction (DLMF 8.17.22).

    :param x: upper end of the integral, in [0, 1].
    :param a: first parameter, above 0.
    :param b: second parameter, above 0.

    >>> round(incomplete_beta(0.3, 1, 1), 12), round(incomplete_beta(0.5, 2, 2), 12)
    (0.3, 0.5)
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image converges fast
        return 1 - incomplete_beta(1 - x, b, a)
    front = exp(a * log(x) + b * log1p(-x) + lgamma(a + b) - lgamma(a) - lgamma(b)) / a
    # Lentz's algorithm: the fraction as a product of ratios of successive numerators and denominators.
    tiny = 1e-300
    numerator, denominator, product = 1.0, 0.0, 1.0
    for step in range(100_000):
        m = step // 2
        if step == 0:
            part = 1.0
        elif step % 2:
            part = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            part = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        denominator = 1 / ((1 + part * denominator) or tiny)
        numerator = (1 + part / numerator) or tiny
        ratio = numerator * denominator
        product *= ratio
        if step and abs(ratio - 1) < 1e-15:
            break
    return front * (product - 1)


def _quantile(share: float, a: float, b: float) -> float:
    """Where the incomplete beta function comes to a share, by halving."""
    low, high = 0.0, 1.0
    while high - low > 1e-15 * max(high, 1e-3) and low < (middle := (low + high) / 2) < high:
        if incomplete_beta(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2
