"""The time that advice has taken."""

from __future__ import annotations

import time
from collections.abc import Callable


class Elapsed:
    """Seconds since advice was asked for. What earlier processes took for pilots that are kept counts as well, so that
    an advice that was interrupted decides by the clock as it would have decided.

    :param now: tells the time in seconds.

    >>> clock = Elapsed(now=lambda: 100.0)
    >>> clock.add(30)
    >>> clock()
    30.0
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._started = now()
        self.before = 0.0
        """Seconds that earlier processes took."""

    def __call__(self) -> float:
        return self._now() - self._started + self.before

    def add(self, seconds: float) -> None:
        """Count what an earlier process took.

        :param seconds: seconds that it took, 0 or more.
        """
        self.before += seconds
