"""Several pilots of an advice at once, each in a process of its own, on this machine or on those of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from avalanche_vlm.commands.durable import Command
from avalanche_vlm.commands.elsewhere import refuse_other_versions, versions_here
from avalanche_vlm.commands.pilots import Stream
from avalanche_vlm.commands.progress import HeardProgress, Progress, ToldProgress
from avalanche_vlm.commands.requests import AdviseRequest
from avalanche_vlm.studies.advice.elapsed import Elapsed
from avalanche_vlm.studies.advice.halving import TIME_IS_UP, Trial, Tried, attempt, not_run
from avalanche_vlm.studies.parallel import Engine, Work


class PilotsAtOnce:
    """Runs the pilots of a round, as many at once as there are jobs.

    :param request: what was asked for; every process opens its stream and its model for itself.
    :param stream: the stream here, whose clock and scores before training all pilots share.
    :param jobs: pilots at once.
    :param engine: what does so many pilots.
    :param progress: shows what the processes tell.
    :param command: hands signals on to them.
    """

    def __init__(
        self,
        request: AdviseRequest,
        stream: Stream,
        jobs: int,
        engine: Callable[[int], Engine],
        progress: Progress,
        command: Command,
    ) -> None:
        self._request, self._stream, self._jobs, self._engine = request, stream, jobs, engine
        self._progress, self._command = progress, command

    def __call__(self, trials: Sequence[Trial], deadline: float) -> Iterator[tuple[str, Tried]]:
        """Try them all; what ends one of them stops no other.

        :param trials: the pilots, in the order in which they begin.
        :param deadline: time on the stream's clock at which all must have ended.
        :return: recipes with what came of their pilots, as it comes.
        """
        scores = self._stream.pilots.before_training()
        # Processes have clocks of their own; the system's is one for all of a machine, that on the wall for several.
        elsewhere = self._request.engine.elsewhere
        now, versions = (time.time, versions_here()) if elsewhere else (time.monotonic, None)
        ends = now() + deadline - self._stream.clock()
        given = ends, now, scores, self._progress.shown
        works = [
            Work(
                trial.recipe,
                partial(try_in_worker, self._request, versions, trial, *given),
                begin_by=ends if elsewhere else None,
            )
            for trial in trials
        ]
        heard, engine = HeardProgress(self._progress), self._engine(len(works))
        with self._command.working(engine), closing(engine.run(works, heard)) as endings:
            for ending in endings:
                heard.over(ending.index)
                name = trials[ending.index].recipe
                if ending.failure is not None and ending.failure.late:
                    yield name, Tried(why=not_run(trials[ending.index], TIME_IS_UP), late=True)
                    continue
                if ending.failure is not None:
                    yield name, Tried.failed(ending.failure)
                    continue
                tried, before = ending.value
                self._stream.clock.add(before / self._jobs)
                yield name, tried


def try_in_worker(
    request: AdviseRequest,
    versions: dict[str, str] | None,
    trial: Trial,
    ends: float,
    now: Callable[[], float],
    scores: Any,
    shown: bool,
    tell: Callable[[Any], None],
) -> tuple[Tried, float]:
    """Try a pilot in a process of its own.

    :param request: what was asked for.
    :param versions: versions of the machine that asks, where this may be another one.
    :param trial: the pilot that is tried.
    :param ends: time at which it must have ended.
    :param now: tells that time, here and where the pilot was asked for.
    :param scores: scores before training, as :meth:`Pilots.before_training
        <avalanche_vlm.studies.advice.pilots.Pilots.before_training>` gives them.
    :param shown: whether whoever hears of it shows bars.
    :param tell: takes what is told of its progress.
    :return: what came of it, and the seconds that earlier processes took for it.
    :raises InputError: if other versions are installed here.
    """
    if versions is not None:
        refuse_other_versions(versions)
    clock, deadline = Elapsed(), ends - now()
    command = Command(request.out, patient=True)
    with command.interruptible():
        stream = Stream(request, ToldProgress(tell, shown), clock, command)
        stream.pilots.begin_with(scores)
        return attempt(trial, stream.run, deadline, clock), clock.before
