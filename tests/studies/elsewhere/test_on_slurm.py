"""Works as elements of a job array: the script that is handed in, and what comes of them, by a Slurm of one machine."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import far_works
import pytest
from fake_slurm import FakeSlurm

from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.studies.elsewhere import on_slurm
from avalanche_vlm.studies.elsewhere.on_slurm import Allotted, Element, OnSlurm
from avalanche_vlm.studies.elsewhere.watched import SharedFolders
from avalanche_vlm.studies.parallel import Work

submitit = pytest.importorskip("submitit")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Iterator[FakeSlurm]:
    fake = FakeSlurm(tmp_path / "slurm")
    for name, value in fake.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(on_slurm, "_EVERY", 0.1)
    monkeypatch.setattr(on_slurm, "_STATES", 0.5)
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0.5)  # how long it waits for a slow file system
    yield fake
    fake.end()


def engine(tmp_path: Path, **asked: Any) -> OnSlurm:
    (tmp_path / "out").mkdir(exist_ok=True)
    return OnSlurm(SharedFolders.around(tmp_path / "out"), asked.pop("allotted", Allotted(60)), threads=None, **asked)


def there(path: Path) -> None:
    limit = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.slow
def test_elements_return_tell_are_preempted_and_end_each_for_itself(slurm, tmp_path):
    told, remarks, mine = [], [], tmp_path / "mine"
    works = [partial(far_works.double, 3), partial(far_works.train, mine, 10**9), far_works.refuse]
    works.append(partial(far_works.lose, tmp_path, "lost", 9, "watcher"))

    def hear(index: int, what: Any) -> None:
        told.append((index, what))
        if (index, what) == (1, ("at", 0)):
            slurm.signal("101_1", signal.SIGUSR2)

    limits = Allotted(90, "gpu", 3.5, {"account": "lab", "cpus-per-task": "7", "exclusive": ""})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        slurmed = engine(tmp_path, allotted=limits, processors=3, gpus=1, jobs=2, remark=remarks.append)
        found = list(slurmed.run([Work(str(i), work) for i, work in enumerate(works)], hear))
    endings = {ending.index: ending for ending in found}
    assert [endings[i].value for i in range(4)] == [6, 10**9, None, None]
    assert (0, ("doubling", 3)) in told and [what for i, what in told if i == 1] == [("at", 0), ("at", 10**9)]
    assert slurm.requeued("101_1") == 1 and slurm.requeued("101_0") == 0
    assert "two names are alike" in [str(warning.message) for warning in caught]
    assert endings[2].failure.sentence == "row 3 is empty" and endings[2].failure.unusable
    assert "its job 101_3 ended without a result (Slurm has it as FAILED)" in endings[3].failure.sentence
    options = slurm.options()
    asked = {"array": "0-3%2", "partition": "gpu", "time": "90", "mem": "3584M", "gpus-per-node": "1"}
    asked |= {"signal": "USR2@120", "account": "lab", "cpus-per-task": "7", "exclusive": "", "requeue": ""}
    assert asked.items() <= options.items() and options["job-name"] == "avalanche-vlm"
    assert slurm.script[0] == "#!/bin/bash" and any(
        "--cpus-per-task=7 " in line for line in slurm.script if line.startswith("srun --unbuffered ")
    )
    assert remarks == ["4 of them are handed in to Slurm as job 101"]


@pytest.mark.slow
def test_closing_ends_what_works_when_it_has_written_down_where_it_was(slurm, tmp_path):
    slurmed, mine = engine(tmp_path), tmp_path / "mine"

    def hear(index: int, what: Any) -> None:
        slurmed.request()
        threading.Thread(target=stop_when_asked).start()

    def stop_when_asked() -> None:
        there(mine.with_suffix(".asked"))
        os.kill(os.getpid(), signal.SIGINT)

    def stop(number: int, frame: Any) -> None:
        raise Interrupted("told to end", number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        work = Work("a", partial(far_works.train, mine, 5))
        with pytest.raises(Interrupted), closing(slurmed.run([work], hear)) as endings:
            next(endings)
    finally:
        signal.signal(signal.SIGINT, before)
    assert mine.read_text() == "5"
    limit = time.monotonic() + 10
    while slurm.state("101") != "COMPLETED" and time.monotonic() < limit:
        time.sleep(0.02)  # its script ends after what it has come to is there
    assert slurm.state("101") == "COMPLETED"
    assert not list((tmp_path / "out").iterdir())


def test_what_slurm_refuses_is_one_sentence(slurm, tmp_path, monkeypatch):
    (slurm.folder / "refuses").touch()
    with pytest.raises(InputError, match=r"sbatch does not take the runs: .*invalid partition specified"):
        next(engine(tmp_path).run([Work("a", far_works.refuse)], print))
    (slurm.folder / "refuses").rename(slurm.folder / "mumbles")
    with pytest.raises(InputError, match=r"sbatch does not take the runs: .*it is done"):
        next(engine(tmp_path).run([Work("a", far_works.refuse)], print))
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--engine slurm needs sbatch, which is not on this machine's path"):
        next(engine(tmp_path).run([Work("a", far_works.refuse)], print))


def test_what_has_not_begun_is_cancelled_when_it_is_late_or_all_are_to_end(slurm, tmp_path):
    slurm.fill()
    slurmed = engine(tmp_path)
    slurmed.request()  # at a signal, before there is anything
    assert not list((tmp_path / "out").iterdir())
    works = [Work("a", far_works.refuse, begin_by=time.time() + 0.2), Work("b", far_works.refuse)]
    with closing(slurmed.run(works, print)) as endings:
        ending = next(endings)
        assert ending.index == 0 and ending.failure.late
        assert slurm.state("101_0") == "CANCELLED" and slurm.state("101_1") == "PENDING"
    assert slurm.state("101_1") == "CANCELLED" and slurm.options()["array"] == "0-1%2"
    assert not list((tmp_path / "out").iterdir())


def test_what_is_suspended_is_waited_for(slurm, tmp_path, monkeypatch):
    slurm.fill()
    monkeypatch.setattr(submitit.SlurmJob, "_results_timeout_s", 0)
    changes = [threading.Timer(at, slurm.state, ("101", state)) for at, state in ((0.1, "SUSPENDED"), (0.9, "TIMEOUT"))]
    with closing(engine(tmp_path).run([Work("a", far_works.refuse)], lambda *told: None)) as endings:
        for change in changes:
            change.start()
        ending = next(endings)
    assert "(Slurm has it as TIMEOUT)" in ending.failure.sentence


def test_what_is_preempted_and_not_handed_in_again_is_not_waited_for_without_an_end(slurm, tmp_path, monkeypatch):
    slurm.fill()
    monkeypatch.setattr(on_slurm, "_STATES", 0.1)
    monkeypatch.setattr(on_slurm, "_GONE", 1.0)
    changes = [(0.1, "PREEMPTED"), (0.8, "PENDING"), (1.6, "PREEMPTED")]  # the first time it is handed in again
    timers = [threading.Timer(at, slurm.state, ("101", state)) for at, state in changes]
    began = time.monotonic()
    with closing(engine(tmp_path).run([Work("a", far_works.refuse)], lambda *told: None)) as endings:
        for timer in timers:
            timer.start()
        ending = next(endings)
    assert time.monotonic() - began > 2.5
    assert "job 101 was preempted, and Slurm has not handed it in again" in ending.failure.sentence
    assert slurm.state("101") == "CANCELLED"


def test_a_signal_while_elements_are_handed_in_is_heard_when_they_are_known(slurm, tmp_path):
    def stop(number: int, frame: Any) -> None:
        raise Interrupted("told to end", number)

    slurm.fill()
    (slurm.folder / "interrupts").write_text(str(os.getpid()))
    before = signal.signal(signal.SIGINT, stop)
    try:
        with pytest.raises(Interrupted), closing(engine(tmp_path).run([Work("a", far_works.refuse)], print)) as endings:
            next(endings)
    finally:
        signal.signal(signal.SIGINT, before)
    assert slurm.state("101") == "CANCELLED" and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("work", [far_works.preempt, far_works.end])
def test_an_element_that_is_preempted_has_not_failed_and_is_handed_in_again(work, tmp_path, monkeypatch):
    class HandedIn(Exception):
        pass

    def again(number: int, frame: Any) -> None:
        raise HandedIn  # where submitit asks for the checkpoint

    monkeypatch.setattr(on_slurm, "NOTICE", 0.2)
    monkeypatch.chdir(tmp_path)
    heard: list[int] = []
    handlers = {signal.SIGTERM: lambda number, frame: heard.append(number), signal.SIGUSR2: again}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with pytest.raises(HandedIn):
            Element("a", pickle.dumps(work), None, SharedFolders.around(tmp_path), tmp_path / "letters")()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert heard == [signal.SIGTERM] * (work is far_works.preempt)


def test_further_options_stand_in_the_place_of_ours():
    assert Allotted(5).parameters(1, 0)["additional_parameters"] == {"requeue": True}
    for further in ({"gres": "gpu:a100:1"}, {"gpus-per-task": "1"}):
        assert "gpus_per_node" not in Allotted(5, further=further).parameters(1, 1)
