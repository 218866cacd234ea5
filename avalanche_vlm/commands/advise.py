"""``advise``: pilots on the user's stream, a recommendation and a plan."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from avalanche_vlm.benchmarks.registry import get_benchmark
from avalanche_vlm.benchmarks.sources.registry import kind_of_data
from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.durable import Command, locked
from avalanche_vlm.commands.elsewhere import cluster, threads_elsewhere
from avalanche_vlm.commands.jobs import FAILURE
from avalanche_vlm.commands.pilots import UNFINISHED, Stream
from avalanche_vlm.commands.progress import Progress
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.commands.requests import AdviseRequest
from avalanche_vlm.commands.side_by_side import planned, threads_each
from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.parallel import Engine, Failure, Processes
from avalanche_vlm.units import tell


def advise(request: AdviseRequest) -> int:
    """Pilots within the minutes, then ``advice.json`` and what it says; pilots that are there are kept.

    What ends the pilots of a recipe stops no other. The exit code is 1 where it was something else than the input or
    the time, as a fault in the recipe's code: the advice is given all the same.

    :param request: what was asked for.
    :return: exit code of the process.
    """
    command = Command(request.out)
    with command.interruptible():
        request, warnings = without_task_id(request)
        with locked(request.out):
            return _advise(request, warnings, command)


def _advise(request: AdviseRequest, warnings: list[str], command: Command) -> int:
    from avalanche_vlm.report import advice
    from avalanche_vlm.studies.advice.advised import ADVICE
    from avalanche_vlm.studies.advice.elapsed import Elapsed
    from avalanche_vlm.studies.advice.session import ask

    clock = Elapsed()
    path = request.out / store.ADVISED
    with watched(request.quiet) as progress, contextlib.ExitStack() as until_then:
        if sizes := prepare.quick_sizes(request):
            progress.say(sizes)
        if unknown := prepare.knows_nothing_of(request):
            progress.say(unknown)
        jobs, threads, engine = _engine(request, progress, until_then)
        stream, together = Stream(request, progress, clock, command, jobs), None
        if engine is not None:
            import torch

            from avalanche_vlm.commands.pilots_at_once import PilotsAtOnce

            torch.set_num_threads(threads)  # what is computed here goes with what is computed there
            together = PilotsAtOnce(request, stream, jobs, engine, progress, command)
        crashed: dict[str, str] = {}

        def note(recipe: str, failure: Failure) -> None:
            if not failure.unusable:
                crashed[recipe] = failure.sentence

        try:
            found = ask(
                stream.pilots,
                stream.run,
                request.recipes,
                60 * request.minutes,
                stream.known,
                jobs=jobs,
                together=together,
                on_failure=note,
            )
        except InputError as error:  # that of which no pilot could run
            if not crashed:
                raise
            tell(f"avalanche-vlm: {error}", errors=True)
            return _crashed(request, crashed)
    used = round(clock() / 60, 2)
    found["warnings"] = warnings + found["warnings"]
    minutes = {"asked": request.minutes, "used": used}
    advice.print_advice(found)  # a disk that takes no file does not lose it
    ADVICE.write(path, {"protocol": stream.protocol(), "minutes": minutes, "seeds": [request.seed]} | found)
    shutil.rmtree(request.out / UNFINISHED, ignore_errors=True)
    tell(f"{used:.1f} of {request.minutes:g} minutes; written to {path}")
    return _crashed(request, crashed)


def _engine(
    request: AdviseRequest, progress: Progress, until_then: contextlib.ExitStack
) -> tuple[int, int, Callable[[int], Engine] | None]:
    """Pilots at once, threads of each, and what does so many of them; None runs one after another in this process."""
    device = prepare.device_of(request.device)
    if request.engine.elsewhere:
        there = until_then.enter_context(cluster(request, device, progress.say))
        return there.at_once(len(request.recipes)), threads_elsewhere(request), lambda works: there
    jobs = planned(request, request.recipes, device)
    threads = threads_each(request, jobs)
    return jobs, threads, (lambda works: Processes(min(jobs, works), threads)) if jobs > 1 else None


def _crashed(request: AdviseRequest, crashed: dict[str, str]) -> int:
    """Say what was no fault of the input: the exit code."""
    for recipe, sentence in crashed.items():
        place = request.out / "pilots" / recipe / FAILURE
        tell(f"avalanche-vlm: {recipe}: {sentence}; where it was stands in {place}", errors=True)
    return 1 if crashed else 0


def without_task_id(request: AdviseRequest) -> tuple[AdviseRequest, list[str]]:
    """Let all classes compete where no prediction may know its task and nothing else was asked for.

    :param request: what was asked for.
    :return: the request, and what to say of the change.
    :raises InputError: if the label space that was asked for is one that needs the task id.
    """
    stream = request.stream
    if request.limits.task_id:
        return request, []
    if stream.label_space == "task":
        raise InputError("--label-space task needs the task id at prediction, which --no-task-id forbids")
    if stream.label_space or (stream.benchmark and "union" not in get_benchmark(stream.benchmark).label_spaces):
        return request, []
    if stream.data and Path(stream.data).exists() and kind_of_data(stream.data, **stream.options) == "pairs":
        return request, []  # captions have no label space
    changed = request.model_copy(update={"stream": stream.model_copy(update={"label_space": "union"})})
    return changed, ["all classes compete (--label-space union): under --no-task-id no prediction knows its task"]
