"""Works on a cluster that Slurm schedules: a job array with an element for each, by way of submitit.

What works say goes through files in a folder that all machines see: an element writes what its work tells, and looks
whether a checkpoint is asked for, or its end.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.studies.elsewhere.held_signals import kept_from_children, signals_held_back
from avalanche_vlm.studies.elsewhere.known import refuse_no_engine
from avalanche_vlm.studies.elsewhere.letters import Letters, read_asked, write_asked, write_letter
from avalanche_vlm.studies.elsewhere.watched import SharedFolders, Watched
from avalanche_vlm.studies.parallel import Ending, Failure, Hear, Work, heard_or_not
from avalanche_vlm.units import in_short

REQUEUES = 20
"""How often an element is handed in again that was told to end in the last ten minutes of its time, or in the last
fifth of it, at most; one that is preempted before that always is."""
NOTICE = 120
"""Seconds before its time is up at which an element is told, to write a checkpoint."""
WRITES = 90.0
"""Of these, what the checkpoint may take."""
_EVERY = 1.0
"""Seconds from one look at files to the next."""
_STATES = 30.0
"""Seconds from one question to Slurm to the next."""
_GONE = 1800.0
"""Seconds after which an element that was preempted, and is not handed in again, is taken for cancelled."""
_NOT_AGAIN = (
    "its job {} was preempted, and Slurm has not handed it in again in half an hour, as PreemptMode=CANCEL has it: the "
    "same command begins it again, from its last checkpoint"
)
_WAIT = ("PENDING", "REQUEUED", "SUSPENDED")
"""States, as Slurm has them, of what will begin or go on."""


@dataclass(frozen=True)
class Allotted:
    """What Slurm is asked for, for each work.

    :param minutes: minutes that an element may take at a time, after which it is handed in again.
    :param partition: name of the partition; None for the cluster's own default.
    :param gigabytes: memory; None for the cluster's own default.
    :param further: further options of ``sbatch`` by their names, with an empty value for one that has none.
    """

    minutes: int
    partition: str | None = None
    gigabytes: float | None = None
    further: Mapping[str, str] = field(default_factory=dict)

    def parameters(self, processors: int, gpus: int) -> dict[str, Any]:
        """The same as submitit has it.

        :param processors: processors of each element.
        :param gpus: GPUs of each.
        """
        further = {name.replace("-", "_"): value or True for name, value in self.further.items()}
        found: dict[str, Any] = {
            "job_name": "avalanche-vlm",
            "time": self.minutes,
            "cpus_per_task": processors,
            "signal_delay_s": NOTICE,
            # which srun does not take over from sbatch
            "srun_args": [f"--cpus-per-task={further.get('cpus_per_task', processors)}"],
            "additional_parameters": {"requeue": True, **further},
        }
        if gpus and not any(name == "gres" or name.startswith("gpus") for name in further):
            found["gpus_per_node"] = gpus
        if self.partition is not None:
            found["partition"] = self.partition
        if self.gigabytes is not None:
            found["mem"] = f"{round(self.gigabytes * 1024)}M"
        return found


class Element:
    """What an element of the array does. submitit calls it, and asks for its checkpoint when its time is up or another
    job takes its place.

    :param name: what the work is called in a sentence.
    :param work: the pickled function that does it.
    :param threads: threads of torch; None leaves torch out.
    :param folders: where the files are that it is about.
    :param letters: the folder of what it says.
    """

    def __init__(self, name: str, work: bytes, threads: int | None, folders: SharedFolders, letters: Path) -> None:
        self._given = name, work, threads, folders, letters
        self._watched: Watched | None = None
        self._told_to_end = False
        self._terminated = False

    def __call__(self) -> tuple[Any, Failure | None]:
        """What the work returns, or why it does not."""
        name, work, threads, folders, letters = self._given
        before = signal.getsignal(signal.SIGTERM)

        def terminated(number: int, frame: Any) -> None:
            self._terminated = True  # as all processes of the element are, of which some cannot say so any more
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, terminated)
        checkpoints, _ = read_asked(letters.parent)
        letters.mkdir(exist_ok=True)
        letter = letters / f"{time.time_ns()}"  # of this start alone: an earlier one may have ended within a line
        with kept_from_children("SIGUSR2"):  # Slurm sends it to all processes of the element
            self._watched = watched = Watched(name, work, threads, folders)
        while True:
            said = watched.answers(_EVERY)
            write_letter(letter, [answer for answer in said if not answer.last])
            if said and said[-1].last:
                ending = Ending.of(0, said[-1])
                preempted = ending.failure is not None and (ending.failure.interrupted or self._terminated)
                if preempted and not self._told_to_end:
                    _wait_for_what_comes_next()
                return ending.value, ending.failure
            wanted, end = read_asked(letters.parent)
            if end and not self._told_to_end:
                self._told_to_end = True
                watched.end(end)
            elif wanted > checkpoints:
                checkpoints = wanted
                watched.request()

    def checkpoint(self) -> Any:
        """Have the work write a checkpoint and end: what goes on from it, elsewhere and later."""
        if self._watched is not None:
            self._told_to_end = True
            self._watched.end(seconds=WRITES)
        return _imported().helpers.DelayedSubmission(Element(*self._given))


class OnSlurm:
    """An array of jobs, an element for each work.

    What ends one stops no other. An element whose time is up, or that is preempted, writes a checkpoint, is handed in
    again and goes on. When the iterator is closed, or a signal ends what waits for it, elements are told to end, and
    those that have not begun are cancelled. They do outlive a process that is killed, and end by themselves.

    :param folders: where the files are that works are about; its folder gets one for what is said, until all is over.
    :param allotted: what Slurm is asked for, for each.
    :param threads: threads of torch in each; None leaves torch out.
    :param processors: processors of each.
    :param gpus: GPUs of each.
    :param jobs: elements at once at most; None for as many as the cluster likes.
    :param remark: is told what happens, in sentences.
    """

    def __init__(
        self,
        folders: SharedFolders,
        allotted: Allotted,
        *,
        threads: int | None = 1,
        processors: int = 1,
        gpus: int = 0,
        jobs: int | None = None,
        remark: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._folders, self._allotted, self._threads, self._remark = folders, allotted, threads, remark
        self._parameters, self._jobs = allotted.parameters(processors, gpus), jobs
        self._checkpoints = 0

    def at_once(self, works: int) -> int:
        """How many of these works may be done at once, 1 or more; nobody knows how long each of them waits.

        :param works: works that there are to do.
        """
        return max(1, min(works, works if self._jobs is None else self._jobs))

    def run(self, works: Sequence[Work], hear: Hear) -> Generator[Ending, None, None]:
        refuse_no_engine("slurm")
        own = Path(tempfile.mkdtemp(prefix="slurm-", dir=self._folders.folder))
        letters = [Letters(own / f"{index}") for index in range(len(works))]
        jobs: list[Any] = []
        left: list[int] = []
        preempted: dict[int, float] = {}
        number, keep, said, were_late = None, False, -1, False
        try:
            with signals_held_back():
                jobs = self._handed_in(own, works)
                left = list(range(len(works)))
            self._remark(f"{len(jobs)} of them are handed in to Slurm as job {jobs[0].job_id.partition('_')[0]}")
            asked = time.monotonic()
            while left:
                time.sleep(_EVERY / 2)
                if self._checkpoints != said and write_asked(own, checkpoints := self._checkpoints, None):
                    said = checkpoints
                late = [index for index in left if works[index].is_late()]
                news = time.monotonic() >= asked + _STATES or (bool(late) and not were_late)
                if news:
                    asked, were_late = time.monotonic(), bool(late)
                    jobs[0].watcher.update()
                for index in list(left):
                    letters[index].deliver(index, hear)
                    if jobs[index].done():
                        left.remove(index)
                        letters[index].deliver(index, hear)
                        ending, there = self._ending(index, jobs[index])
                        keep |= not there
                        yield ending
                    elif news and index in late and _waits(jobs[index], letters[index]):
                        left.remove(index)
                        jobs[index].cancel(check=False)
                        yield Ending.late(index)
                    elif news and _is_gone(jobs[index], preempted, index):
                        left.remove(index)
                        jobs[index].cancel(check=False)  # it would begin beside one that somebody else begins
                        yield Ending(index, failure=Failure(_NOT_AGAIN.format(jobs[index].job_id), ""))
        except Interrupted as stopped:
            number = stopped.signal
            raise
        finally:
            there_still = [(index, jobs[index], letters[index]) for index in left]
            self._end(own, signal.SIGTERM if number is None else number, there_still, heard_or_not(hear))
            if not keep:
                shutil.rmtree(own, ignore_errors=True)

    def request(self) -> None:
        self._checkpoints += 1  # a signal is no time to write: what waits for the works says so

    def _handed_in(self, own: Path, works: Sequence[Work]) -> list[Any]:
        submitit = _imported()
        executor = submitit.SlurmExecutor(folder=own / "jobs", max_num_timeout=REQUEUES)
        executor.update_parameters(**self._parameters, array_parallelism=self._jobs or len(works))
        refusals = submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedSubmissionError
        try:
            with executor.batch():
                jobs = [
                    executor.submit(
                        Element(work.name, pickle.dumps(work.function), self._threads, self._folders, own / f"{index}")
                    )
                    for index, work in enumerate(works)
                ]
        except (*refusals, subprocess.CalledProcessError, OSError) as error:
            raise InputError(f"sbatch does not take the runs: {in_short(str(error), 300)}") from error
        watcher = _watcher(submitit)
        for job in jobs:
            job.watcher = watcher
            watcher.register_job(job.job_id)
        return jobs

    def _ending(self, index: int, job: Any) -> tuple[Ending, bool]:
        """What came of an element, and whether it has said so itself."""
        try:
            value, failure = job.result()
        except Exception as error:  # submitit's own, and what a result is damaged by
            state = job.watcher.get_state(job.job_id, mode="cache")
            sentence = f"its job {job.job_id} ended without a result (Slurm has it as {state}): see {job.paths.stderr}"
            return Ending(index, failure=Failure(sentence, f"{error}\n")), False
        return Ending(index, value, failure), True

    def _end(self, own: Path, number: int, left: Sequence[tuple[int, Any, Letters]], hear: Hear) -> None:
        """Have all end that has not, and wait until it has."""
        waiting, said, asked = list(left), False, -math.inf
        while waiting:
            said = said or write_asked(own, self._checkpoints, int(number))
            if news := time.monotonic() >= asked + _STATES:
                asked = time.monotonic()
                waiting[0][1].watcher.update()
            for index, job, letters in list(waiting):
                letters.deliver(index, hear)
                state = job.watcher.get_state(job.job_id, mode="cache")
                if job.done() or (news and state == "PREEMPTED"):  # which may go on, or not
                    waiting.remove((index, job, letters))
                elif news and _waits(job, letters):
                    job.cancel(check=False)
                    asked = -math.inf  # it is soon over
            time.sleep(_EVERY)


def _waits(job: Any, letters: Letters) -> bool:
    """Whether an element has yet to begin, or to go on, by what Slurm said a moment ago."""
    state = job.watcher.get_state(job.job_id, mode="cache")
    return state in _WAIT or (state == "UNKNOWN" and not letters.begun)


def _is_gone(job: Any, preempted: dict[int, float], index: int) -> bool:
    """Whether an element was preempted long ago and never came back; since when it is preempted is noted."""
    if job.watcher.get_state(job.job_id, mode="cache") != "PREEMPTED":
        preempted.pop(index, None)
        return False
    return time.monotonic() >= preempted.setdefault(index, time.monotonic()) + _GONE


def _wait_for_what_comes_next() -> None:
    """All processes of the element were told to end, and not by us: Slurm does what comes next, and kills this one and
    requeues it, or was told to cancel it. Where it only takes its time, the element hands itself in again."""
    time.sleep(NOTICE)
    os.kill(os.getpid(), signal.SIGUSR2)  # as Slurm does where the time is up
    time.sleep(NOTICE)


def _watcher(submitit: Any) -> Any:
    """What asks Slurm how elements are."""

    class Watcher(submitit.slurm.slurm.SlurmInfoWatcher):
        def is_done(self, job_id: str, mode: str = "standard") -> bool:
            """Whether a job is over: submitit takes one for it that is suspended."""
            return self.get_state(job_id, mode=mode) not in _WAIT and super().is_done(job_id, mode="cache")

    return Watcher(delay_s=600)


def _imported() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise InputError(f"--engine slurm: submitit cannot be imported: {error}") from error
    logging.getLogger("submitit").setLevel(logging.CRITICAL)
    return submitit
