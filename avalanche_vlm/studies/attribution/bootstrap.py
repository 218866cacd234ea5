"""Paired bootstrap over samples: intervals of means and of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from avalanche_vlm.errors import InputError


class Estimate(NamedTuple):
    """A figure with its percentile interval."""

    value: float
    low: float
    high: float


class PairedBootstrap:
    """Means of several figures over the same resampled samples, so that their differences can be judged.

    Every figure has one value per sample. Samples are drawn with replacement within each group (a task's test set,
    say), and a figure is the mean over groups of the group's mean, so a large group does not weigh more. The intervals
    are the percentiles of the draws (Efron 1979; Efron and Tibshirani 1993, chapter 13). What is not resampled, such
    as the other samples that a query competes with, is taken as given.

    :param groups: number of samples in each group.
    :param draws: how often to resample.
    :param level: share of cases in which the interval is to hold the truth.
    :param seed: seed of the draws, 0 or more.
    :raises InputError: if a group is empty, or a number is out of its range.
    """

    def __init__(self, groups: Sequence[int], draws: int = 2000, level: float = 0.95, seed: int = 0) -> None:
        if not len(groups) or min(groups) < 1:
            raise InputError(f"a bootstrap needs at least one sample in every group, not {list(groups)}")
        if draws < 1 or not 0 < level < 1:
            raise InputError(f"a bootstrap needs draws of at least 1 and a level between 0 and 1, not {draws}, {level}")
        rng = np.random.default_rng(seed)
        self.groups = tuple(groups)
        self.level = level
        # How often each sample is drawn, over its group's size and the number of groups: a figure is a sum of these.
        parts = [rng.multinomial(n, np.full(n, 1 / n), size=draws) / (n * len(groups)) for n in groups]
        self._weights = np.concatenate(parts, axis=1)
        self._plain = np.concatenate([np.full(n, 1 / (n * len(groups))) for n in groups])

    def mean(self, values: ArrayLike) -> Estimate:
        """A figure.

        :param values: one per sample, group after group; of a difference, the difference of each sample.

        >>> PairedBootstrap([2, 1]).mean([1.0, 3.0, 4.0]).value
        3.0
        """
        values = self._checked(values)
        low, high = np.quantile(self._weights @ values, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Estimate(float(self._plain @ values), float(low), float(high))

    def means(self, figures: Mapping[str, ArrayLike]) -> dict[str, Estimate]:
        """Several figures."""
        return {name: self.mean(values) for name, values in figures.items()}

    def _checked(self, values: ArrayLike) -> np.ndarray:
        values = np.asarray(values, dtype=np.float64)
        if values.shape != self._plain.shape:
            raise InputError(f"{len(self._plain)} samples need as many values, not {list(values.shape)}")
        return values
