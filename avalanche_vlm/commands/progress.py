"""Progress on standard error, for whoever watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from avalanche_vlm.benchmarks.sources.telling import checks_told
from avalanche_vlm.units import tell, visible

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from avalanche_vlm.commands.live_table import TableAndBars
    from avalanche_vlm.evaluation.declaration import ResultEntry

EVERY = 0.1
"""Seconds from one movement of another process's bar to the next."""

LINES = 60.0
"""Seconds from one line to the next where no bars can be drawn, as in a scheduler's log."""


class Progress:
    """On standard error a bar per experiment; without a terminal a line a minute; or nothing at all.

    :param bars: rich's bars; None shows none.
    :param quiet: whether remarks and lines are left out.
    """

    def __init__(self, bars: TableAndBars | None, quiet: bool) -> None:
        self.shown = not quiet
        """Whether it is shown how far an experiment is."""
        self._bars = bars
        self._quiet = quiet
        self._said: set[str] = set()
        self._lines = _Lines()
        self._whole: _Whole | None = None

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
            tell(sentence, errors=True)

    @contextmanager
    def task(self, label: str, tasks: int) -> Iterator[Callable[[int, int, int], None] | None]:
        """A bar for one experiment.

        :param label: what stands before the bar.
        :param tasks: number of tasks in the stream.
        :return: a callback ``(experience, iteration, iterations)`` that moves the bar; None where nothing is shown.
        """
        bars = self._bars
        if not self.shown:
            yield None
            return
        if bars is None:
            with self._lines.of(label) as tell_line:
                yield lambda experience, iteration, iterations: tell_line(
                    f"{experience + iteration / iterations:.1f} of {tasks} tasks"
                )
            return
        bar = bars.add_task(visible(label), total=tasks, unit="task", places=1, left="", over=False)

        def advance(experience: int, iteration: int, iterations: int) -> None:
            bars.update(bar, completed=experience + iteration / iterations)
            if self._whole is not None:
                self._whole.advanced(label, (experience + iteration / iterations) / tasks)

        try:
            yield advance
        finally:
            if self._whole is not None:
                self._whole.advanced(label, 1.0)  # over, even if it has failed
            bars.update(bar, over=True, refresh=True)

    def whole(self, total: int) -> None:
        """Show how far all of several experiments are, and how long they take still.

        :param total: number of the experiments that are to be done.
        """
        if self._bars is not None and self.shown and total > 1:
            bar = self._bars.add_task("all runs", total=total, unit="run", places=1, left="")
            self._whole = _Whole(self._bars, bar, total)

    def scored(self, entries: Sequence[ResultEntry]) -> None:
        """Show the scores of what is finished, where someone watches.

        :param entries: result and timing of each finished experiment, in the order of their table.
        """
        if self._bars is not None and self.shown:
            self._bars.show_scores(entries)


class _Whole:
    """How far several experiments are together, and how long they take at the pace of so far."""

    def __init__(self, bars: Bars, bar: TaskID, total: int) -> None:
        self._bars, self._bar, self._total = bars, bar, total
        self._shares: dict[str, float] = {}
        self._first: dict[str, float] = {}
        """Shares at which they were met first: what goes on has not done all of it now."""
        self._begun: float | None = None

    def advanced(self, label: str, share: float) -> None:
        """Show that one of them is further.

        :param label: name of the one that is further.
        :param share: the share of it that is done, from 0 to 1.
        """
        self._shares[label] = share
        self._first.setdefault(label, share)
        done, now = sum(self._shares.values()), time.monotonic()
        self._begun = now if self._begun is None else self._begun
        left = remaining(now - self._begun, done - sum(self._first.values()), self._total - done)
        self._bars.update(self._bar, completed=done, left=left)


def remaining(seconds: float, done: float, left: float) -> str:
    """How long something takes still at the pace of so far, in words; empty where nobody knows. The first seconds, in
    which caches are made and workers wait for each other, are no pace.

    :param seconds: seconds of so far, 0 or more.
    :param done: what was done in them, in units of its own.
    :param left: what is left, in the same units.

    >>> remaining(60, 1.5, 3), remaining(30, 0.0, 4), remaining(10, 1, 1), remaining(3600, 1, 2)
    ('2 min left', '', '10 s left', '2 h 0 min left')
    """
    if done <= 0 or seconds < 5:
        return ""
    need = seconds / done * left
    if need < 100:
        return f"{need:.0f} s left"
    minutes = round(need / 60)
    return f"{minutes} min left" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min left"


class _Lines:
    """A line now and then on how far everything is that goes on at the moment."""

    def __init__(self) -> None:
        self._due = time.monotonic() + LINES
        self._places: dict[str, str] = {}
        self._process = os.getpid()

    @contextmanager
    def of(self, label: str) -> Iterator[Callable[[str], None]]:
        """One thing that goes on.

        :param label: name that its lines begin with.
        :return: a function that takes how far it is.
        """
        try:
            yield lambda place: self._tell(label, place)
        finally:
            self._places.pop(label, None)

    def _tell(self, label: str, place: str) -> None:
        self._places[label] = place
        if (now := time.monotonic()) >= self._due and os.getpid() == self._process:
            self._due = now + LINES
            tell("; ".join(f"{label}: {place}" for label, place in self._places.items()), errors=True)


class ToldProgress(Progress):
    """Progress of what works in another process: told to the one that shows it, a :class:`HeardProgress` there.

    :param tell: function that takes what is told to the other process.
    :param shown: whether it is shown there how far this is.
    """

    def __init__(self, tell: Callable[[Any], None], shown: bool) -> None:
        super().__init__(None, quiet=False)
        self.shown = shown
        self._tell = tell

    def say_once(self, sentence: str) -> None:
        self._tell(("say_once", sentence))

    def say(self, sentence: str) -> None:
        self._tell(("say", sentence))

    @contextmanager
    def task(self, label: str, tasks: int) -> Iterator[Callable[[int, int, int], None] | None]:
        if not self.shown:
            yield None
            return
        self._tell(("begin", label, tasks))
        last = time.monotonic()

        def advance(experience: int, iteration: int, iterations: int) -> None:
            nonlocal last
            if (now := time.monotonic()) >= last + EVERY or iteration == iterations:
                last = now
                self._tell(("advance", experience, iteration, iterations))

        try:
            yield advance
        finally:
            self._tell(("end",))


class HeardProgress:
    """Shows what others tell of their progress.

    :param progress: what shows it.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[int, tuple[ExitStack, Callable[[int, int, int], None] | None]] = {}

    def __call__(self, index: int, told: tuple[Any, ...]) -> None:
        """Show something.

        :param index: number of the one that tells it.
        :param told: what is told by a :class:`ToldProgress`.
        """
        kind, *content = told
        if kind == "begin":
            self.over(index)  # it may have begun before, where its machine was lost
            stack = ExitStack()
            self._bars[index] = stack, stack.enter_context(self._progress.task(*content))
        elif kind == "end":
            self.over(index)
        elif kind == "advance":
            # A full disk may have kept the beginning from us that an element of a cluster has told.
            advance = self._bars[index][1] if index in self._bars else None
            if advance is not None:
                advance(*content)
        else:
            getattr(self._progress, kind)(*content)

    def over(self, index: int) -> None:
        """Let a bar stand as it is, of one that tells no more.

        :param index: number of the one that has told.
        """
        if index in self._bars:
            self._bars.pop(index)[0].close()


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Bars where someone watches, a line a minute without a terminal.

    :param quiet: whether bars, lines and remarks are left out.
    :return: what shows the progress.
    """
    if quiet:
        yield Progress(None, quiet)
        return
    if not sys.stderr.isatty():
        with _Lines().of("checking images") as tell_line, checks_told(lambda *of: tell_line("{} of {}".format(*of))):
            yield Progress(None, quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    from avalanche_vlm.commands.live_table import TableAndBars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[unit]} {task.completed:.{task.fields[places]}f}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with TableAndBars(*columns, console=Console(stderr=True)) as bars, checks_told(_of_checks(bars)):
        try:
            yield Progress(bars, quiet)
        finally:
            bars.table = None  # the whole one is printed in its place


def _of_checks(bars: Bars) -> Callable[[int, int], None]:
    """What shows how far a check of images is, in a bar that goes when it is over."""
    bar: TaskID | None = None
    here = os.getpid()

    def tell(done: int, total: int) -> None:
        nonlocal bar
        if os.getpid() != here:  # a process that was forked has the bars, and not the terminal
            return
        if bar is None:
            bar = bars.add_task("checking images", total=total, unit="image", places=0, left="")
        bars.update(bar, completed=done)
        if done == total:
            bars.remove_task(bar)
            bar = None

    return tell


@contextmanager
def counting(quiet: bool, what: str) -> Iterator[Callable[[int], None]]:
    """A count of what is done where nobody knows how much there is, shown where someone watches, and in a line a minute
    without a terminal.

    :param quiet: whether nothing is shown.
    :param what: what is counted, in the plural.
    :return: a function that adds to the count.
    """
    if quiet:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        done = 0
        with _Lines().of(f"{what} so far") as tell_line:

            def add(number: int) -> None:
                nonlocal done
                done += number
                tell_line(str(done))

            yield add
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:.0f} {task.description}", markup=False),
        TimeElapsedColumn(),
    )
    # What goes to standard output is the command's, and stays there.
    with Bars(*columns, console=Console(stderr=True), redirect_stdout=False) as bars:
        count = bars.add_task(what, total=None)
        yield lambda number: bars.advance(count, number)
