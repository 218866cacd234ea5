"""Progress on standard error, for whoever watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class Progress:
    """A bar per experiment on standard error, or nothing at all.

    :param bars: rich's bars; None shows none.
    :param quiet: whether remarks are left out.
    """

    def __init__(self, bars: Bars | None, quiet: bool) -> None:
        self._bars = bars
        self._quiet = quiet
        self._said: set[str] = set()

    def say_once(self, sentence: str) -> None:
        """Print a remark that several experiments have in common, at the first.

        :param sentence: remark, a whole sentence.
        """
        if sentence not in self._said:
            self._said.add(sentence)
            self.say(sentence)

    def say(self, sentence: str) -> None:
        """Print a remark, unless it should be quiet.

        :param sentence: remark, a whole sentence.
        """
        if not self._quiet:
            print(sentence, file=sys.stderr)

    @contextmanager
    def task(self, label: str, tasks: int) -> Iterator[Callable[[int, int, int], None] | None]:
        """A bar for one experiment.

        :param label: what stands before the bar.
        :param tasks: number of tasks in the stream.
        :return: a callback ``(experience, iteration, iterations)`` that moves the bar; None where there are no bars.
        """
        bars = self._bars
        if bars is None:
            yield None
            return
        bar = bars.add_task(label, total=tasks)

        def advance(experience: int, iteration: int, iterations: int) -> None:
            bars.update(bar, completed=experience + iteration / iterations)

        try:
            yield advance
        finally:
            bars.refresh()


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Bars where someone watches, nothing without a terminal.

    :param quiet: whether bars and remarks are left out.
    :return: what shows the progress.
    """
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


@contextmanager
def counting(quiet: bool, what: str) -> Iterator[Callable[[int], None]]:
    """A count of what is done where nobody knows how much there is, shown where someone watches.

    :param quiet: whether nothing is shown.
    :param what: what is counted, in the plural.
    :return: a function that adds to the count.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:.0f} {task.description}"), TimeElapsedColumn())
    # What goes to standard output is the command's, and stays there.
    with Bars(*columns, console=Console(stderr=True), redirect_stdout=False) as bars:
        count = bars.add_task(what, total=None)
        yield lambda number: bars.advance(count, number)
