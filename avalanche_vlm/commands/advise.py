"""``advise``: pilots on the user's stream, a recommendation and a plan."""

from __future__ import annotations

import shutil
from pathlib import Path

from avalanche_vlm.benchmarks.registry import get_benchmark
from avalanche_vlm.benchmarks.sources.registry import kind_of_data
from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.durable import Command, locked
from avalanche_vlm.commands.pilots import UNFINISHED, Stream
from avalanche_vlm.commands.progress import progress as watched
from avalanche_vlm.commands.requests import AdviseRequest
from avalanche_vlm.commands.side_by_side import planned, threads_each
from avalanche_vlm.errors import InputError
from avalanche_vlm.units import tell


def advise(request: AdviseRequest) -> int:
    """Pilots within the minutes, then ``advice.json`` and what it says; pilots that are there are kept.

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
    with watched(request.quiet) as progress:
        if sizes := prepare.quick_sizes(request):
            progress.say(sizes)
        if unknown := prepare.knows_nothing_of(request):
            progress.say(unknown)
        jobs = planned(request, request.recipes, prepare.device_of(request.device))
        stream, together = Stream(request, progress, clock, command, jobs), None
        if jobs > 1:
            import torch

            from avalanche_vlm.commands.pilots_at_once import PilotsAtOnce

            threads = threads_each(request, jobs)
            torch.set_num_threads(threads)  # what is computed here goes with what is computed there
            together = PilotsAtOnce(request, stream, jobs, threads, progress, command)
        found = ask(
            stream.pilots, stream.run, request.recipes, 60 * request.minutes, stream.known, jobs=jobs, together=together
        )
    used = round(clock() / 60, 2)
    found["warnings"] = warnings + found["warnings"]
    minutes = {"asked": request.minutes, "used": used}
    ADVICE.write(path, {"protocol": stream.protocol(), "minutes": minutes, "seeds": [request.seed]} | found)
    shutil.rmtree(request.out / UNFINISHED, ignore_errors=True)
    advice.print_advice(found)
    tell(f"{used:.1f} of {request.minutes:g} minutes; written to {path}")
    return 0


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
