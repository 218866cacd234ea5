"""Several experiments at once: how many, with how many threads each, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from avalanche_vlm import _processors
from avalanche_vlm._memory import free_memory, memory, refuse_beyond
from avalanche_vlm.commands import store
from avalanche_vlm.commands.durable import Command, locked
from avalanche_vlm.commands.elsewhere import cluster, execute_elsewhere, versions_here
from avalanche_vlm.commands.jobs import Job, execute, execute_in_worker
from avalanche_vlm.commands.progress import HeardProgress, Progress
from avalanche_vlm.commands.requests import AdviseRequest, CompareRequest
from avalanche_vlm.studies import room
from avalanche_vlm.studies.parallel import Ending, Engine, Here, Processes, Work
from avalanche_vlm.studies.workers import prepare_workers

if TYPE_CHECKING:
    from collections.abc import Callable

NEEDED = (
    "avalanche_vlm.commands.jobs",
    "avalanche_vlm.studies.experiment",
    "avalanche_vlm.studies.outcome",
    "avalanche_vlm.benchmarks.picturebook",
    "avalanche_vlm.models.tiny.shipped",
    *(f"avalanche_vlm.training.recipes.{family}" for family in ("baseline", "replay", "regularization", "adaptation")),
    "avalanche_vlm.training.recipes.fusion",
    "avalanche_vlm.report.plots",
)
"""What a worker imports, in the end."""


def begin_imports(request: CompareRequest | AdviseRequest) -> None:
    """Have what workers need be imported meanwhile, where there will be any.

    :param request: what was asked for.
    """
    if request.engine.elsewhere:
        return
    seeds = request.seeds if isinstance(request, CompareRequest) else (request.seed,)
    folders = [request.out / recipe / f"seed-{seed}" for seed in seeds for recipe in request.recipes]
    several = isinstance(request, CompareRequest) and len(request.variants) > 1
    todo = isinstance(request, AdviseRequest) or several
    todo = todo or not all((folder / store.RESULT_FILE).exists() for folder in folders)
    if (
        todo
        and (several or len(folders) > 1)
        and not request.device.startswith("cuda")
        and (request.jobs or _processors.cores()) > 1
    ):
        prepare_workers(NEEDED)


def planned(request: CompareRequest | AdviseRequest, runs: Sequence[str], device: str) -> int:
    """How many trainings this machine does at once. It is decided by what is asked for and by the machine, not by what
    is finished already: the threads of each, which its last digits depend on, are the same after an interruption.

    :param request: what was asked for.
    :param runs: the recipe of each training.
    :param device: where they train.
    :raises InputError: if more were asked for than there is memory for.
    """
    from avalanche_vlm.training import recipes

    if any(recipes.get(recipe).compose.__module__ == "__main__" for recipe in runs):
        return 1  # no other process has what a notebook or script declares
    if request.jobs is not None:
        asked = max(1, min(request.jobs, len(runs)))
        refuse_beyond(asked * room.PROCESS_BYTES, f"--jobs {request.jobs}: {asked} trainings at once")
        return asked
    processors = request.threads or _processors.cores()
    if len(runs) < 2 or processors < 2 or device.startswith("cuda"):
        return 1
    from avalanche_vlm.models.size import weight_bytes

    weights = weight_bytes(request.model.name, request.model.precision)
    return room.jobs_at_once(len(runs), processors, weights, memory())


def threads_each(request: CompareRequest | AdviseRequest, most: int) -> int:
    """Threads of each of several trainings, among which those of the command are divided.

    :param request: what was asked for.
    :param most: trainings at once.
    """
    return max(1, (request.threads or _processors.cores()) // most)


def side_by_side(
    request: CompareRequest, jobs: Sequence[Job], command: Command, progress: Progress
) -> Iterator[tuple[Job, Ending]]:
    """Do what is not done yet, several at once.

    :param request: what was asked for.
    :param jobs: all of the comparison's experiments.
    :param command: hears of signals.
    :param progress: shows what is done.
    :return: the experiments with what came of them, as it comes; those first that are finished already.
    """
    minutes = request.checkpoint_minutes

    def here(job: Job) -> Callable[[Any], dict[str, Any]]:
        def work(tell: Callable[[Any], None]) -> dict[str, Any]:
            with locked(job.folder):
                return execute(job, minutes, command, progress)

        return work

    device = jobs[0].asked.device if jobs else "cpu"
    most = 0 if request.engine.elsewhere else planned(request, [job.asked.recipe for job in jobs], device)
    if most == 1:
        yield from _endings(Here(), jobs, [here(job) for job in jobs], command, progress)
        return
    kept, left = [job for job in jobs if job.kept], [job for job in jobs if not job.kept]
    yield from _endings(Here(), kept, [here(job) for job in kept], command, progress)
    if left and request.engine.elsewhere:
        with cluster(request, device, progress.say) as there:
            functions = [partial(execute_elsewhere, job, versions_here(), minutes, progress.shown) for job in left]
            yield from _endings(there, left, functions, command, progress)
    elif left:
        engine = Processes(_now(request, most, len(left)), threads_each(request, most))
        functions = [partial(execute_in_worker, job, minutes, progress.shown) for job in left]
        yield from _endings(engine, left, functions, command, progress)


def _endings(
    engine: Engine, jobs: Sequence[Job], functions: Sequence[Callable[..., Any]], command: Command, progress: Progress
) -> Iterator[tuple[Job, Ending]]:
    """What comes of experiments that an engine does."""
    heard = HeardProgress(progress)
    named = [Work(str(job), function) for job, function in zip(jobs, functions, strict=True)]
    with command.working(engine), closing(engine.run(named, heard)) as endings:
        for ending in endings:
            heard.over(ending.index)
            yield jobs[ending.index], ending


def _now(request: CompareRequest, most: int, left: int) -> int:
    """How many at once there is room for at present, unless the number was asked for."""
    if request.jobs is not None:
        return min(most, left)
    from avalanche_vlm.models.size import weight_bytes

    weights = weight_bytes(request.model.name, request.model.precision)
    return min(most, room.jobs_at_once(left, most, weights, free_memory()))
