"""Trainings beside each other: what an engine is asked and answers, and the two that need no more than this machine.
Those of clusters are in :mod:`~avalanche_vlm.studies.elsewhere`.

An engine takes works and gives endings, in the order in which they come to their ends::

    works = [Work("lora, seed 0", partial(train, job)) for job in jobs]
    with closing(Processes(2, threads=1).run(works, hear)) as endings:
        for ending in endings:
            ...

The function of a work gets a function by which it tells what happens meanwhile, in values that can be pickled; whoever
runs the engine hears them, with the number of the work. What a work raises is its ending, and stops no other.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.studies.workers import Answer, Worker, first_answers

Tell = Callable[[Any], None]
Hear = Callable[[int, Any], None]


@dataclass(frozen=True)
class Work:
    """Something to do.

    :param name: what it is called in a sentence.
    :param function: what does it, given the function by which it tells what happens. An engine that works in other
        processes pickles it, and what it returns.
    :param begin_by: time, as ``time.time`` tells it, at which it is not begun any more on a cluster that makes it
        wait; None waits for ever.
    """

    name: str
    function: Callable[[Tell], Any]
    begin_by: float | None = None

    def is_late(self) -> bool:
        """Whether it is not begun any more."""
        return self.begin_by is not None and time.time() >= self.begin_by


@dataclass(frozen=True)
class Failure:
    """Why something was not done.

    :param sentence: the reason, in a sentence.
    :param traceback: where it was, as Python writes it; what is known where no Python was left to write it.
    :param unusable: whether the input is at fault, as an :class:`~avalanche_vlm.errors.InputError` says.
    :param interrupted: whether it was told to end: what it goes on from is on the disk.
    :param late: whether it did not begin in time.
    """

    sentence: str
    traceback: str
    unusable: bool = False
    interrupted: bool = False
    late: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What an exception says.

        :param error: the exception, as it was caught.
        """
        where = "".join(traceback.format_exception(error))
        return cls(_sentence(error), where, isinstance(error, InputError), isinstance(error, Interrupted))


@dataclass(frozen=True)
class Ending:
    """What came of a work.

    :param index: number of the work, from 0 on.
    :param value: what its function has returned.
    :param failure: why it has returned nothing; None if it has.
    """

    index: int
    value: Any = None
    failure: Failure | None = None

    @classmethod
    def of(cls, index: int, answer: Answer) -> Ending:
        """What came of a work that a worker has done with :func:`returned_or_failed`.

        :param index: number of the work, from 0 on.
        :param answer: the last thing that the worker has said.
        """
        if answer.died is not None:
            return cls(index, failure=Failure(answer.died, answer.died + "\n"))
        value, failure = answer.value
        return cls(index, value, failure)

    @classmethod
    def late(cls, index: int) -> Ending:
        """That of a work for which a cluster had no room in time.

        :param index: number of the work, from 0 on.
        """
        sentence = "the cluster had no room for it in time"
        return cls(index, failure=Failure(sentence, sentence + "\n", late=True))


class Engine(Protocol):
    """Does what is asked, somewhere."""

    def run(self, works: Sequence[Work], hear: Hear) -> Generator[Ending, None, None]:
        """Do it all.

        :param works: what is to be done, in the order in which it is begun.
        :param hear: called as ``(index, told)`` with what a work tells.
        :return: the endings, each as soon as it is there. Closing the iterator ends what is not done.
        """

    def request(self) -> None:
        """Have the trainings that are being done write checkpoints, if they can."""


class Here:
    """One after another, in this process and thread, which hears of signals itself.

    >>> [ending.value for ending in Here().run([Work("a", lambda tell: 1)], print)]
    [1]
    """

    def run(self, works: Sequence[Work], hear: Hear) -> Generator[Ending, None, None]:
        for index, work in enumerate(works):
            try:
                ending = Ending(index, work.function(partial(hear, index)))
            except Exception as error:
                ending = Ending(index, failure=Failure.of(error))
            yield ending

    def request(self) -> None:
        """Nothing: whoever listens in this process does it."""


class Processes:
    """Several at once, each in a process of its own on this machine.

    What ends one of them, be it the system, stops no other. When the iterator is closed, or a signal ends what waits
    for it, they are told to end: trainings write their checkpoints first. They do not outlive this process.

    :param jobs: how many work at once, 1 or more.
    :param threads: threads of torch in each; None leaves torch out.
    """

    def __init__(self, jobs: int, threads: int | None = None) -> None:
        if jobs < 1:
            raise InputError(f"1 process or more works, not {jobs}")
        self.jobs, self.threads = jobs, threads
        self._working: dict[int, Worker] = {}

    def run(self, works: Sequence[Work], hear: Hear) -> Generator[Ending, None, None]:
        waiting = list(enumerate(works))
        number: int | None = None
        try:
            while waiting or self._working:
                while waiting and len(self._working) < self.jobs:
                    index, work = waiting.pop(0)
                    self._working[index] = Worker(work.name, partial(returned_or_failed, work.function), self.threads)
                for index, answer in first_answers(self._working):
                    if answer.told is not None:
                        hear(index, answer.told[0])
                        continue
                    self._working.pop(index).join()
                    yield Ending.of(index, answer)
        except Interrupted as stopped:
            number = stopped.signal
            raise
        finally:
            for worker in self._working.values():
                worker.end(number)
            anyway = heard_or_not(hear)
            for index, answer in _all_answers(self._working):
                if answer.told is not None:
                    anyway(index, answer.told[0])

    def request(self) -> None:
        for worker in list(self._working.values()):
            worker.request()


def _all_answers(working: dict[int, Worker]) -> Iterator[tuple[int, Any]]:
    """What workers say that were told to end, until the last of them has."""
    while working:
        for index, answer in first_answers(working):
            if answer.told is None:
                working.pop(index).join()
            yield index, answer


def heard_or_not(hear: Hear) -> Hear:
    """The same for works that are being ended: that it fails keeps none of them from its end.

    :param hear: hears what works tell.
    """

    def anyway(index: int, told: Any) -> None:
        with contextlib.suppress(Exception):
            hear(index, told)

    return anyway


def returned_or_failed(work: Callable[[Tell], Any], tell: Tell) -> tuple[Any, Failure | None]:
    """What a work returns, or why it does not.

    :param work: the function of the work.
    :param tell: the function by which it tells what happens.
    """
    try:
        return work(tell), None
    except BaseException as error:
        return None, Failure.of(error)


def _sentence(error: BaseException) -> str:
    """What went wrong, in a sentence: an exception of ours is one, another has its kind before its first line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, InputError | Interrupted):
        return text
    if isinstance(error, MemoryError):
        return "there is not enough memory for it" + (f": {text}" if text else "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
