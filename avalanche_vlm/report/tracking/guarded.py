"""Loggers that may fail: whatever happens to a log, the training goes on, and as if nobody had looked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from avalanche.core import SupervisedPlugin
from avalanche.logging import BaseLogger

from avalanche_vlm._generators import generators_kept
from avalanche_vlm.units import in_short

_USER = re.compile(r"(\w://)[^\s/?#@]*(?:@[^\s/?#@]*)*@")
"""User and password in an address."""


class Guarded(BaseLogger):
    """A logger whose errors are remarks. After the first one it logs no more.

    :param name: what it is called in the remark.
    :param logger: any of Avalanche's.
    :param remark: is told why it has failed, in a sentence.
    """

    def __init__(self, name: str, logger: BaseLogger, remark: Callable[[str], None]) -> None:
        super().__init__()
        self.name, self.logger, self._remark = name, logger, remark
        self.failed = False
        """Whether it logs no more."""
        self._closed = False

    def log_metrics(self, metric_values: Sequence[Any]) -> None:
        """Log values, if it can.

        :param metric_values: values that metrics have published.
        """
        if metric_values:
            self._try(self.logger.log_metrics, metric_values)

    def flush(self) -> None:
        """Have everything be where it stays, if the logger knows how."""
        self._try(getattr(self.logger, "flush", _nothing))

    def close(self, finished: bool) -> None:
        """Log no more.

        :param finished: whether the training has come to its end.
        """
        close = getattr(self.logger, "close", _nothing)
        if not self.failed:
            self._try(close, finished)
        elif not self._closed:
            with suppress(Exception), generators_kept():  # why it failed is said already
                close(finished)
        self._closed = True

    def __getattr__(self, name: str) -> Any:
        # The callbacks that an evaluator hands on, of those that the logger has.
        if name.startswith(("before_", "after_")):
            called = getattr(self.logger, name)
            if getattr(type(self.logger), name, None) is not getattr(SupervisedPlugin, name, None):
                return partial(self._try, called)
        raise AttributeError(name)

    def _try(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            with generators_kept():
                call(*args, **kwargs)
        except Exception as error:  # disks, networks and drawing each have their own
            self.failed = True
            self._remark(f"{self.name} logs no more, and the training goes on: {why(error)}")


def why(error: Exception) -> str:
    """What an error says, in short.

    :param error: any error of a logger's.
    """
    said = next(iter(_USER.sub(r"\1", str(error)).splitlines()), "")
    return in_short(said, 200) if said else type(error).__name__


def _nothing(*args: Any) -> None:
    pass
