"""Progress on standard error, for whoever watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """A bar per experiment on standard error, or nothing at all."""

    def __init__(self, bars: Any | None, quiet: bool) -> None:
        self._bars = bars
        self._quiet = quiet

    def say(self, sentence: str) -> None:
        if not self._quiet:
            print(sentence, file=sys.stderr)

    @contextmanager
    def task(self, label: str, tasks: int) -> Iterator[Any]:
        """A callback ``(experience, iteration, iterations)`` that moves the bar."""
        if self._bars is None:
            yield None
            return
        bar = self._bars.add_task(label, total=tasks)
        try:
            yield lambda experience, step, total: self._bars.update(bar, completed=experience + step / total)
        finally:
            self._bars.refresh()


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Bars where someone watches, nothing with ``quiet`` or without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield Progress(None, quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("task {task.completed:.1f}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield Progress(bars, quiet)
