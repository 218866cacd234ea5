"""Who is told how far a check of images is: light, so that a command can say it before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_TOLD: ContextVar[Callable[[int, int], None] | None] = ContextVar("_TOLD", default=None)


@contextmanager
def checks_told(tell: Callable[[int, int], None]) -> Iterator[None]:
    """Have checks of images tell how far they are, for as long as the context lasts.

    :param tell: called as ``(done, total)``.
    """
    token = _TOLD.set(tell)
    try:
        yield
    finally:
        _TOLD.reset(token)


def listener() -> Callable[[int, int], None] | None:
    """The function that is to be called as ``(done, total)``; None where nobody asked."""
    return _TOLD.get()
