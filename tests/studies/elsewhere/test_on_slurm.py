"""Works as elements of a job array: the script that is handed in, and what comes of them, by a Slurm of one machine."""

from __future__ import annotations

import os
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
from avalanche_vlm.studies.elsewhere.on_slurm import Allotted, OnSlurm
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
        there(mine.with_suffix(".asked"))
        threading.Timer(0, os.kill, (os.getpid(), signal.SIGINT)).start()

    def stop(number: int, frame: Any) -> None:
        raise Interrupted("told to end", number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        work = Work("a", partial(far_works.train, mine, 5))
        with pytest.raises(Interrupted), closing(slurmed.run([work], hear)) as endings:
            next(endings)
    finally:
        signal.signal(signal.SIGINT, before)
    assert mine.read_text() == "5" and (slurm.folder / "state-101").read_text() == "COMPLETED\n"
    assert not list((tmp_path / "out").iterdir())


def test_what_slurm_refuses_is_one_sentence(slurm, tmp_path, monkeypatch):
    (slurm.folder / "refuses").touch()
    with pytest.raises(InputError, match=r"sbatch does not take the runs: .*invalid partition specified"):
        next(engine(tmp_path).run([Work("a", far_works.refuse)], print))
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--engine slurm needs sbatch, which is not on this machine's path"):
        next(engine(tmp_path).run([Work("a", far_works.refuse)], print))


def test_further_options_stand_in_the_place_of_ours():
    assert Allotted(5).parameters(1, 0, None)["additional_parameters"] == {"requeue": True}
    for further in ({"gres": "gpu:a100:1"}, {"gpus-per-task": "1"}):
        assert "gpus_per_node" not in Allotted(5, further=further).parameters(1, 1, None)
