"""Works on a cluster that Slurm schedules: a job array with an element for each, by way of submitit.

What works say goes through files in a folder that all machines see: an element writes what its work tells, and looks
whether a checkpoint is asked for, or its end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.storage.durable import replace_file
from avalanche_vlm.studies.elsewhere.known import refuse_no_engine
from avalanche_vlm.studies.elsewhere.watched import SharedFolders, Watched
from avalanche_vlm.studies.parallel import Ending, Failure, Hear, Work
from avalanche_vlm.studies.workers import Answer, warned_again
from avalanche_vlm.units import in_short

REQUEUES = 20
"""How often an element that has used up its time is handed in again, at most; one that was preempted always is."""
NOTICE = 120
"""Seconds before its time is up at which an element is told, to write a checkpoint."""
WRITES = 90.0
"""Of these, what the checkpoint may take."""
_EVERY = 1.0
"""Seconds from one look at files to the next."""
_STATES = 30.0
"""Seconds from one question to Slurm to the next."""
_ASKED = "asked.json"


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

    def parameters(self, processors: int, gpus: int, jobs: int | None) -> dict[str, Any]:
        """The same as submitit has it.

        :param processors: processors of each element.
        :param gpus: GPUs of each.
        :param jobs: elements at once at most; None for as many as the cluster likes.
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
        if jobs is not None:
            found["array_parallelism"] = jobs
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

    def __call__(self) -> tuple[Any, Failure | None]:
        """What the work returns, or why it does not."""
        name, work, threads, folders, letters = self._given
        asked, (checkpoints, _) = letters.parent / _ASKED, _read_asked(letters.parent / _ASKED)
        letters.mkdir(exist_ok=True)
        letter = letters / f"{time.time_ns()}"  # of this start alone: an earlier one may have ended within a line
        with _from_children("SIGUSR2"):  # Slurm sends it to all processes of the element
            self._watched = watched = Watched(name, work, threads, folders)
        while True:
            said = watched.answers(_EVERY)
            _write(letter, [answer for answer in said if not answer.last])
            if said and said[-1].last:
                ending = Ending.of(0, said[-1])
                if ending.failure is not None and ending.failure.interrupted and not self._told_to_end:
                    time.sleep(NOTICE)  # all processes were told to end: what told them does what comes next
                return ending.value, ending.failure
            wanted, end = _read_asked(asked)
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
        self._parameters, self._jobs = allotted.parameters(processors, gpus, jobs), jobs
        self._checkpoints = 0
        self._own = folders.folder

    def at_once(self, works: int) -> int:
        """How many of these works may be done at once, 1 or more; nobody knows how long each of them waits.

        :param works: works that there are to do.
        """
        return max(1, min(works, works if self._jobs is None else self._jobs))

    def run(self, works: Sequence[Work], hear: Hear) -> Generator[Ending, None, None]:
        refuse_no_engine("slurm")
        self._own = Path(tempfile.mkdtemp(prefix="slurm-", dir=self._folders.folder))
        self._ask(end=None)
        letters = [_Letters(self._own / f"{index}") for index in range(len(works))]
        jobs = self._handed_in(works, letters)
        self._remark(f"{len(jobs)} of them are handed in to Slurm as job {jobs[0].job_id.partition('_')[0]}")
        left, number, keep = list(range(len(works))), None, False
        asked = time.monotonic()
        try:
            while left:
                time.sleep(_EVERY / 2)
                if time.monotonic() >= asked + _STATES:
                    asked = time.monotonic()
                    jobs[0].watcher.update()
                for index in list(left):
                    _deliver(index, letters[index], hear)
                    if jobs[index].done():
                        left.remove(index)
                        _deliver(index, letters[index], hear)
                        ending, there = self._ending(index, jobs[index])
                        keep |= not there
                        yield ending
        except Interrupted as stopped:
            number = stopped.signal
            raise
        finally:
            self._end(number, [(index, jobs[index], letters[index]) for index in left], hear)
            if not keep:
                shutil.rmtree(self._own, ignore_errors=True)

    def request(self) -> None:
        self._checkpoints += 1
        self._ask(end=None)

    def _ask(self, end: int | None) -> None:
        content = {"checkpoints": self._checkpoints, "end": end}
        replace_file(self._own / _ASKED, json.dumps(content).encode())

    def _handed_in(self, works: Sequence[Work], letters: Sequence[_Letters]) -> list[Any]:
        submitit = _imported()
        executor = submitit.SlurmExecutor(folder=self._own / "jobs", max_num_timeout=REQUEUES)
        executor.update_parameters(**self._parameters)
        try:
            with executor.batch():
                return [
                    executor.submit(
                        Element(work.name, pickle.dumps(work.function), self._threads, self._folders, told.folder)
                    )
                    for work, told in zip(works, letters, strict=True)
                ]
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
            shutil.rmtree(self._own, ignore_errors=True)
            raise InputError(f"sbatch does not take the runs: {in_short(str(error), 300)}") from error
        except BaseException:
            self._ask(end=int(signal.SIGTERM))  # for those that were handed in when a signal came
            raise

    def _ending(self, index: int, job: Any) -> tuple[Ending, bool]:
        """What came of an element, and whether it has said so itself."""
        try:
            value, failure = job.result()
        except Exception as error:  # submitit's own, and what a result is damaged by
            state = job.watcher.get_state(job.job_id, mode="cache")
            sentence = f"its job {job.job_id} ended without a result (Slurm has it as {state}): see {job.paths.stderr}"
            return Ending(index, failure=Failure(sentence, f"{error}\n")), False
        return Ending(index, value, failure), True

    def _end(self, number: int | None, left: Sequence[tuple[int, Any, _Letters]], hear: Hear) -> None:
        """Have all end that has not, and wait until it has."""
        if not left:
            return
        self._ask(end=int(signal.SIGTERM if number is None else number))
        waiting = list(left)
        while waiting:
            waiting[0][1].watcher.update()
            for index, job, letters in list(waiting):
                _deliver(index, letters, hear)
                if job.done():
                    waiting.remove((index, job, letters))
                elif job.watcher.get_state(job.job_id, mode="cache") in ("PENDING", "REQUEUED", "SUSPENDED"):
                    job.cancel(check=False)
            time.sleep(_EVERY)


class _Letters:
    """What an element says, as far as it was read.

    :param folder: the folder that it writes to, a file for each of its starts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, int] = {}

    def new(self) -> Iterator[Answer]:
        """What was not read before."""
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.folder)):
                with (self.folder / name).open("rb") as file:
                    file.seek(self._read.get(name, 0))
                    while len(head := file.read(8)) == 8:
                        length = int.from_bytes(head, "big")
                        if len(body := file.read(length)) < length:
                            break  # the rest is on its way
                        self._read[name] = file.tell()
                        yield pickle.loads(body)


def _deliver(index: int, letters: _Letters, hear: Hear) -> None:
    for answer in letters.new():
        if not warned_again(answer) and answer.told is not None:
            hear(index, answer.told[0])


def _write(letter: Path, said: Sequence[Answer]) -> None:
    """Add what was said to a file. A full disk ends no work: the next one begins where this one should have ended."""
    bodies = [pickle.dumps(answer) for answer in said]
    content = b"".join(len(body).to_bytes(8, "big") + body for body in bodies)
    with contextlib.suppress(OSError), letter.open("ab") as file:
        file.write(content)


def _read_asked(path: Path) -> tuple[int, int | None]:
    """Checkpoints that were asked for so far, and the number of the signal that the works are to end at."""
    try:
        content = json.loads(path.read_bytes())
        return int(content["checkpoints"]), content["end"]
    except (OSError, ValueError):
        return 0, None  # it is being replaced


@contextlib.contextmanager
def _from_children(name: str) -> Iterator[None]:
    """Within it a signal is kept from processes that are begun, and waits for this one."""
    number = getattr(signal, name)
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def _imported() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise InputError(f"--engine slurm: submitit cannot be imported: {error}") from error
    logging.getLogger("submitit").setLevel(logging.CRITICAL)
    return submitit
