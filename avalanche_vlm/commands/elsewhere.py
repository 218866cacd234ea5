"""Runs and pilots on the machines of a cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avalanche_vlm._versions import package_versions
from avalanche_vlm.commands.jobs import Job, execute_in_worker, job_of
from avalanche_vlm.commands.requests import AdviseRequest, CompareRequest
from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.elsewhere.on_ray import OnRay
from avalanche_vlm.studies.elsewhere.on_slurm import Allotted, OnSlurm
from avalanche_vlm.studies.elsewhere.watched import SharedFolders

if TYPE_CHECKING:
    from avalanche_vlm.commands.store import RunEntry


LEAVING_ELSEWHERE = 180.0
"""Seconds in which a file system that several machines share knows that one which held a lock is gone: NFS takes 90."""


def threads_elsewhere(request: CompareRequest | AdviseRequest) -> int:
    """Threads of each training on a cluster.

    :param request: what was asked for.
    """
    return request.threads or 1


@contextmanager
def cluster(
    request: CompareRequest | AdviseRequest, device: str, remark: Callable[[str], None]
) -> Iterator[OnRay | OnSlurm]:
    """The engine that a cluster is worked on by.

    :param request: what was asked for.
    :param device: where each training is.
    :param remark: is told what happens there, in sentences.
    :raises InputError: if there is no such cluster, or it cannot know one of the recipes.
    """
    _refuse_declared_here(request)
    asked, threads = request.engine, threads_elsewhere(request)
    gpus, place = asked.gpus_on(device), SharedFolders.around(Path(request.out))
    common: dict[str, Any] = {
        "threads": threads,
        "processors": threads + (request.train.num_workers or 0),
        "jobs": request.jobs,
        "remark": remark,
    }
    if asked.name == "ray":
        with OnRay(place, asked.address, gpus=gpus, **common) as engine:
            yield engine
        return
    allotted = Allotted(asked.job_minutes, asked.partition, asked.job_memory, dict(asked.sbatch))
    yield OnSlurm(place, allotted, gpus=int(gpus), **common)


def _refuse_declared_here(request: CompareRequest | AdviseRequest) -> None:
    from avalanche_vlm.training import recipes

    for recipe in request.recipes:
        if recipes.get(recipe).compose.__module__ == "__main__":
            raise InputError(
                f"--engine {request.engine.name}: {recipe} is declared in a script or notebook, which other machines "
                "do not have: declare it in a module that they can import"
            )


def versions_here() -> dict[str, str]:
    """Versions of what decides the numbers, with the libraries that some models cut and encode their texts by."""
    return package_versions("transformers", "tokenizers")


def execute_elsewhere(
    job: Job, versions: dict[str, str], minutes: float | None, shown: bool, tell: Callable[[Any], None]
) -> RunEntry:
    """An experiment on a machine of a cluster: gone on with where another one has left it.

    :param job: the experiment, with its folder.
    :param versions: versions that the machine has which compares, as :func:`versions_here` gives them.
    :param minutes: minutes from one checkpoint to the next; None for checkpoints at the experiences' ends alone.
    :param shown: whether whoever hears of it shows bars.
    :param tell: takes what is told of its progress.
    :return: ``result``, ``timing`` and ``ledger``.
    :raises InputError: if other versions are installed here.
    """
    refuse_other_versions(versions)
    now = job_of(job.asked, job.folder, job.saving, job.row, job.logs)
    return execute_in_worker(now, minutes, shown, tell, leaving=LEAVING_ELSEWHERE)


def refuse_other_versions(there: dict[str, str]) -> None:
    """Refuse to compute for a machine that has other versions of what decides the numbers.

    :param there: versions of the machine that asks, by name.
    :raises InputError: naming the first that differs.
    """
    for name, here in versions_here().items():
        if there.get(name) != here:
            raise InputError(
                f"{socket.gethostname()} has {name} {here}, and {there.get(name)} is on the machine that compares: "
                "results of both share no table"
            )
