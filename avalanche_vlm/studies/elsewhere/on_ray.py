"""Works on a cluster of Ray's: a worker for each, wherever there is room."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Self

from avalanche_vlm._processors import cores
from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.studies.elsewhere.known import refuse_no_engine
from avalanche_vlm.studies.elsewhere.watched import SharedFolders, Watched
from avalanche_vlm.studies.parallel import Ending, Failure, Hear, Work, heard_or_not
from avalanche_vlm.studies.workers import Answer, warned_again
from avalanche_vlm.units import in_short

RESTARTS = 2
"""How often a work is begun again whose worker was lost."""
STORE_BYTES = 128 * 2**20
"""Memory of a local cluster's store, through which nothing goes but what is said."""
_LOOK = 0.05
"""Seconds from one look at what was said to the next."""
_PATIENCE = 10.0
"""Seconds in which a worker says at least that it has nothing to say."""


class Post:
    """What is on the other machine: watches a work, and answers for it.

    :param name: what the work is called in a sentence.
    :param work: the pickled function that does it.
    :param threads: threads of torch; None leaves torch out.
    :param folders: where the files are that it is about.
    """

    def __init__(self, name: str, work: bytes, threads: int | None, folders: SharedFolders) -> None:
        self._watched = Watched(name, work, threads, folders)

    def where(self) -> str:
        """The name of the machine."""
        return socket.gethostname()

    def answers(self) -> list[Answer]:
        """What was said of the work since this was asked before, waiting for it for a while."""
        return self._watched.answers(_PATIENCE)

    def request(self) -> None:
        """Have a checkpoint written."""
        self._watched.request()

    def end(self, number: int | None) -> None:
        """Tell the work to end.

        :param number: number of the signal that it ends as at; None for SIGTERM.
        """
        self._watched.end(number)


@dataclass
class _Posted:
    """A work that was handed to the cluster."""

    index: int
    post: Any
    restarts: int
    host: str | None = None
    """The machine that it is on; None until it has begun."""
    question: Any = None
    """What stands for the answer that is waited for; None when it was taken, and nothing more was asked."""
    said: list[Answer] = field(default_factory=list)
    """What was answered and nobody has heard yet."""


class OnRay:
    """Several at once on a cluster of Ray's, as many as there are processors and GPUs for.

    Each has a worker of Ray's that watches a process of its own. What ends one stops no other. A work whose worker was
    lost (killed, or its machine gone) is begun again wherever there is room, :data:`RESTARTS` times at most: a training
    goes on from its last checkpoint. When the iterator is closed, or a signal ends what waits for it, the works are
    told to end: trainings write their checkpoints first. None outlives this process.

    :param folders: where the files are that works are about.
    :param address: where the cluster is, as Ray has it; None for one on this machine that lasts as long as this.
    :param threads: threads of torch in each; None leaves torch out.
    :param processors: processors of each.
    :param gpus: GPUs of each; below 1, several share one.
    :param jobs: how many work at once at most; None for as many as there is room for.
    :param remark: is told what happens to workers, in sentences.
    """

    def __init__(
        self,
        folders: SharedFolders,
        address: str | None = None,
        *,
        threads: int | None = 1,
        processors: int = 1,
        gpus: float = 0.0,
        jobs: int | None = None,
        remark: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._folders, self._address, self._threads = folders, address, threads
        self._processors, self._gpus, self._jobs, self._remark = processors, gpus, jobs, remark
        self._asked = False
        self._working: dict[int, _Posted] = {}
        self._ours = False

    def __enter__(self) -> Self:
        """Reach the cluster.

        :raises InputError: if Ray is not installed, or there is no cluster.
        """
        self._ray = _imported()
        if self._ray.is_initialized():
            return self
        local = {
            "num_cpus": max(cores(), self._processors),
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        }
        there = {"address": "local", **local} if self._address is None else {"address": self._address}
        with _signals_as_before():
            try:
                self._ray.init(**there, log_to_driver=False, logging_level=logging.CRITICAL)
            except Exception as error:  # each kind of address has kinds of its own
                where = "a Ray cluster on this machine" if self._address is None else f"--address {self._address}"
                raise InputError(f"{where} cannot be had: {_first_line(error)}") from error
        self._ours = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._ours = False
            self._ray.shutdown()

    def at_once(self, works: int) -> int:
        """How many of these works the cluster does at once at present, 1 or more.

        :param works: works that there are to do.
        """
        fit = sum(self._fit(node["Resources"]) for node in self._ray.nodes() if node["Alive"])
        return max(1, min(works, fit, works if self._jobs is None else self._jobs))

    def run(self, works: Sequence[Work], hear: Hear) -> Generator[Ending, None, None]:
        self._say_if_none_fits()
        post = self._ray.remote(Post)
        waiting = deque((index, 0) for index in range(len(works)))
        number: int | None = None
        try:
            while waiting or self._working:
                yield from self._late(works, waiting)
                while waiting and (self._jobs is None or len(self._working) < self._jobs):
                    self._begin(post, works, *waiting.popleft())
                if self._asked:
                    self._asked = False
                    for posted in self._working.values():
                        posted.post.request.remote()
                for posted in self._answered():
                    came = self._told(posted, hear)
                    if came is None:
                        posted.question = posted.post.answers.remote()
                        continue
                    self._give_up(posted)
                    if isinstance(came, Ending):
                        yield came
                    elif posted.restarts < RESTARTS:
                        waiting.appendleft((posted.index, posted.restarts + 1))
                        self._say_lost(works[posted.index].name, posted, came)
                    else:
                        yield _given_up(posted, came)
        except Interrupted as stopped:
            number = stopped.signal
            raise
        finally:
            self._end(number, heard_or_not(hear))

    def request(self) -> None:
        self._asked = True  # a signal is no time to speak with the cluster

    def _begin(self, post: Any, works: Sequence[Work], index: int, restarts: int) -> None:
        work = works[index]
        # Threads beside the one that waits for what is said, to hear that it is to end.
        options = {"num_cpus": self._processors, "num_gpus": self._gpus, "max_restarts": 0, "max_concurrency": 3}
        there = post.options(**options).remote(work.name, pickle.dumps(work.function), self._threads, self._folders)
        self._working[index] = _Posted(index, there, restarts, question=there.where.remote())

    def _late(self, works: Sequence[Work], waiting: deque[tuple[int, int]]) -> Iterator[Ending]:
        """Those for which there was no room in time."""
        for entry in [entry for entry in waiting if works[entry[0]].is_late()]:
            waiting.remove(entry)
            yield Ending.late(entry[0])
        for posted in list(self._working.values()):
            if posted.host is None and works[posted.index].is_late():
                self._give_up(posted)
                yield Ending.late(posted.index)

    def _give_up(self, posted: _Posted) -> None:
        """Be done with a worker."""
        self._working.pop(posted.index, None)
        self._ray.kill(posted.post)

    def _answered(self) -> list[_Posted]:
        """Works whose workers have answered, or are no more. They stay among those that work, since a signal may come
        before they are heard."""
        answered = [posted for posted in self._working.values() if posted.question is None]
        asked = {posted.question: posted for posted in self._working.values() if posted.question is not None}
        if asked:
            # Ray lets no exception out of a wait of its own that a handler of signals raises there.
            ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
            answered += [asked[reference] for reference in ready]
        if not answered:
            time.sleep(_LOOK)
        return answered

    def _told(self, posted: _Posted, hear: Hear) -> Ending | str | None:
        """What came of a work, or why its worker was lost; None where neither is said."""
        if posted.question is not None:
            try:
                answered = self._ray.get(posted.question)
            except self._ray.exceptions.RayError as error:
                return _first_line(error)
            if isinstance(answered, str):
                posted.host = answered
            else:
                posted.said = answered
            posted.question = None
        while posted.said:
            answer = posted.said[0]
            if not answer.last:
                del posted.said[0]  # heard once, whatever happens meanwhile; how it ended is said again
            if answer.told is not None:
                hear(posted.index, answer.told[0])
            elif not warned_again(answer):
                ending = Ending.of(posted.index, answer)
                failure = ending.failure
                stopped = failure is not None and (answer.died is not None or failure.interrupted)
                return failure.sentence if failure is not None and stopped else ending
        return None

    def _end(self, number: int | None, hear: Hear) -> None:
        """Have all end that work, and wait until they have; those that have not begun do not begin."""
        for posted in list(self._working.values()):
            if posted.host is None:
                self._give_up(posted)  # what begins before it is kept from it has nothing to keep
            else:
                posted.post.end.remote(number)
        while self._working:
            for posted in self._answered():
                if self._told(posted, hear) is not None:
                    self._give_up(posted)
                else:
                    posted.question = posted.post.answers.remote()

    def _fit(self, resources: Mapping[str, float]) -> int:
        fit = resources.get("CPU", 0) / self._processors
        return int(min(fit, resources.get("GPU", 0) / self._gpus) if self._gpus else fit)

    def _say_if_none_fits(self) -> None:
        if not any(self._fit(node["Resources"]) for node in self._ray.nodes() if node["Alive"]):
            gpus = f" and {self._gpus:g} GPUs" if self._gpus else ""
            self._remark(f"no machine of the cluster has {self._processors} processors{gpus}: they are waited for")

    def _say_lost(self, name: str, posted: _Posted, why: str) -> None:
        on = "" if posted.host is None else f" on {posted.host}"
        self._remark(f"{name}: its worker{on} was lost ({why}); begun again, {posted.restarts + 1} of {RESTARTS} times")


def _given_up(posted: _Posted, why: str | None) -> Ending:
    on = "" if posted.host is None else f", the last time on {posted.host}"
    sentence = f"its worker was lost {posted.restarts + 1} times{on}: {why}"
    return Ending(posted.index, failure=Failure(sentence, sentence + "\n"))


def _imported() -> Any:
    refuse_no_engine("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would send what it is used for
    os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."  # it would print what becomes of workers, which is said here
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it would warn of what it will do one day
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--engine ray: ray cannot be imported: {error}") from error
    return ray


@contextmanager
def _signals_as_before() -> Iterator[None]:
    """Within it handlers of signals may be replaced; they are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return in_short(lines[0] if lines else type(error).__name__)
