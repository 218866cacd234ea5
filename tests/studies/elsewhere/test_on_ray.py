"""Works on a cluster of Ray's: one of this machine where Ray is installed, and one that only looks like it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import far_works
import pytest

from avalanche_vlm.errors import InputError, Interrupted
from avalanche_vlm.studies.elsewhere import on_ray
from avalanche_vlm.studies.elsewhere.on_ray import RESTARTS, OnRay
from avalanche_vlm.studies.elsewhere.watched import SharedFolders
from avalanche_vlm.studies.parallel import Ending, Work


class RayError(Exception):
    """What Ray says of a worker that is gone."""


class Ray:
    """What the engine asks of Ray, answered by this process: workers are lost when a test says so."""

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, lose: int = 0, nodes: Any = ({"Alive": True, "Resources": {"CPU": 2.0}},)) -> None:
        self.left, self.known, self.running, self.asked, self.killed = lose, nodes, False, {}, []

    def is_initialized(self) -> bool:
        return self.running

    def init(self, **asked: Any) -> None:
        self.asked, self.running = asked, True
        signal.signal(signal.SIGTERM, lambda *_: None)  # as Ray does

    def shutdown(self) -> None:
        self.running = False

    def nodes(self) -> Any:
        return self.known

    def remote(self, kind: type) -> Any:
        def begin(*given: Any) -> Any:
            there = kind(*given)
            of = {name: self._method(there, name) for name in ("where", "answers", "request", "end")}
            return SimpleNamespace(**of, there=there)

        def options(**asked: Any) -> Any:
            self.options = asked
            return SimpleNamespace(remote=begin)

        return SimpleNamespace(options=options)

    def _method(self, there: Any, name: str) -> Any:
        def call(*given: Any) -> list[Any]:
            answer: list[Any] = []

            def work() -> None:
                if name == "answers" and self.left:
                    self.left -= 1
                    there.end(None)
                    answer.append(RayError("The actor died unexpectedly.\nIts machine is gone."))
                else:
                    answer.append(getattr(there, name)(*given))

            threading.Thread(target=work, daemon=True).start()
            self.references.append(answer)
            return _Reference(answer)

        self.references: list[Any] = getattr(self, "references", [])
        return SimpleNamespace(remote=call)

    def wait(self, references: Any, num_returns: int, timeout: float) -> Any:
        return [of for of in references if of.answer], [of for of in references if not of.answer]

    def get(self, reference: Any) -> Any:
        if isinstance(reference.answer[0], RayError):
            raise reference.answer[0]
        return reference.answer[0]

    def kill(self, post: Any) -> None:
        self.killed.append(post)


class _Reference:
    def __init__(self, answer: list[Any]) -> None:
        self.answer = answer


@pytest.fixture(params=["fake", pytest.param("ray", marks=pytest.mark.slow)])
def kind(request) -> str:
    if request.param == "ray" and find_spec("ray") is None:  # who imports it first decides what it prints
        pytest.skip("Ray is not installed")
    return request.param


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    """A place for Ray's own files, whose names may not be long, and the path on which its workers find our works."""
    home = tempfile.mkdtemp(prefix="ray-")
    paths = [str(Path(far_works.__file__).parent), *(path for path in sys.path if path)]
    before = dict(os.environ)
    os.environ |= {"RAY_TMPDIR": home, "PYTHONPATH": os.pathsep.join(paths)}
    yield
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(local, tmp_path_factory) -> Iterator[Any]:
    """One of this machine for all tests: to begin it takes longer than they do."""
    with OnRay(SharedFolders.around(tmp_path_factory.mktemp("cluster"))):
        yield None


@pytest.fixture
def make(kind, request, monkeypatch, tmp_path) -> Any:
    """Makes engines, in a cluster or on what looks like one."""
    monkeypatch.chdir(tmp_path)
    if kind == "fake":
        monkeypatch.setattr(on_ray, "_imported", Ray)
    else:
        request.getfixturevalue("cluster")
    return lambda **asked: OnRay(SharedFolders.around(tmp_path), threads=None, **asked)


def outcomes(engine: OnRay, *works: Any, hear: Any = lambda *told: None) -> list[Ending]:
    with engine:
        found = list(engine.run([Work(f"work {i}", work) for i, work in enumerate(works)], hear))
    return sorted(found, key=lambda outcome: outcome.index)


def test_works_return_and_tell_and_fail_each_for_itself(make):
    told: list[Any] = []
    works = partial(far_works.double, 3), far_works.refuse, far_works.fault, partial(far_works.double, 4)
    with pytest.warns(UserWarning, match="two names are alike"):
        found = outcomes(make(), *works, hear=lambda *what: told.append(what))
    assert [outcome.value for outcome in found] == [6, None, None, 8]
    assert sorted(told) == [(0, ("doubling", 3)), (3, ("doubling", 4))]
    assert found[1].failure.sentence == "row 3 is empty" and found[1].failure.unusable
    assert found[2].failure.sentence == "ValueError: odd" and "in fault" in found[2].failure.traceback


@pytest.mark.parametrize("whom", ["watcher", "worker", "told"])
def test_a_work_whose_worker_is_lost_is_begun_again_and_stops_no_other(make, kind, whom, tmp_path):
    if kind == "fake" and whom == "watcher":
        pytest.skip("that is this process")
    told, remarks = [], []
    works = partial(far_works.lose, tmp_path, "a", RESTARTS, whom), partial(far_works.double, 3)
    found = outcomes(make(remark=remarks.append), *works, hear=lambda *what: told.append(what))
    assert found[0].value.startswith("3 on ") and found[1].value == 6
    assert [what for what in told if what[0] == 0] == [(0, ("begun", n)) for n in (1, 2, 3)]
    assert [said.rpartition("; ")[2] for said in remarks] == [f"begun again, {n} of 2 times" for n in (1, 2)]
    assert all(said.startswith("work 0: its worker on ") and " was lost (" in said for said in remarks)


def test_it_is_not_begun_again_for_ever(make, tmp_path):
    (ending,) = outcomes(make(), partial(far_works.lose, tmp_path, "a", 9, "worker"))
    assert ending.failure.sentence.startswith("its worker was lost 3 times, the last time on ")
    assert "its process was ended by SIGKILL" in ending.failure.sentence and not ending.failure.unusable
    assert len((tmp_path / "a").read_text().splitlines()) == RESTARTS + 1


def test_a_signal_reaches_the_workers_and_they_are_waited_for(make, tmp_path):
    engine, mine = make(jobs=1), tmp_path / "mine"

    def hear(index: int, what: Any) -> None:
        engine.request()
        threading.Thread(target=stop_when_asked).start()

    def stop_when_asked() -> None:
        limit = time.monotonic() + 120
        while not mine.with_suffix(".asked").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        raise Interrupted("told to end", number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with engine, pytest.raises(Interrupted):
            works = [Work("a", partial(far_works.train, mine, 5)), Work("b", far_works.fault)]
            with closing(engine.run(works, hear)) as endings:
                next(endings)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert mine.read_text() == "5" and mine.with_suffix(".asked").read_text() == "1"


@pytest.mark.parametrize("error", [Interrupted("told to end", signal.SIGTERM), BrokenPipeError("nobody reads")])
def test_all_that_have_spoken_at_once_write_down_where_they_are(monkeypatch, tmp_path, error):
    class Together(Ray):
        def wait(self, references: Any, num_returns: int, timeout: float) -> Any:
            ready, not_yet = super().wait(references, num_returns, timeout)
            return ([], references) if not_yet else (ready, [])

    def hear(index: int, what: Any) -> None:
        heard.append((index, what))
        if len(heard) == 1 or isinstance(error, OSError):
            raise error

    heard: list[Any] = []
    monkeypatch.setattr(on_ray, "_imported", Together)
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / "a", tmp_path / "b"]
    works = [Work(file.name, partial(far_works.train, file, 5)) for file in files]
    with (
        OnRay(SharedFolders.around(tmp_path), threads=None) as engine,
        pytest.raises(type(error)),
        closing(engine.run(works, hear)) as endings,
    ):
        next(endings)
    assert [file.read_text() for file in files] == ["5", "5"]
    assert heard == [(0, ("at", 0)), (1, ("at", 0))] and not engine._working


def test_what_has_not_begun_in_time_does_not_begin(monkeypatch, tmp_path):
    class Full(Ray):
        def wait(self, references: Any, num_returns: int, timeout: float) -> Any:
            return [], references

    cluster = Full()
    monkeypatch.setattr(on_ray, "_imported", lambda: cluster)
    monkeypatch.chdir(tmp_path)
    soon = time.time() + 0.3
    works = [Work(name, partial(far_works.double, 1), begin_by=soon) for name in "abc"]
    with OnRay(SharedFolders.around(tmp_path), threads=None, jobs=2) as engine:
        endings = list(engine.run(works, print))
    assert sorted(ending.index for ending in endings) == [0, 1, 2] and all(of.failure.late for of in endings)
    assert len(cluster.killed) == 2


def test_what_is_asked_of_a_cluster(monkeypatch, tmp_path):
    machines = {True: {"CPU": 9.0, "GPU": 1.0}, False: {"CPU": 9.0}}
    cluster = Ray(nodes=[{"Alive": alive, "Resources": of} for alive, of in machines.items()])
    monkeypatch.setattr(on_ray, "_imported", lambda: cluster)
    place = SharedFolders.around(tmp_path)
    with OnRay(place, "auto", processors=2) as engine:
        assert cluster.asked["address"] == "auto" and "num_cpus" not in cluster.asked and engine.at_once(9) == 4
    assert not cluster.running
    remarks: list[str] = []
    with OnRay(place, processors=4, gpus=0.5, jobs=3, remark=remarks.append) as engine:
        assert cluster.asked["address"] == "local" and cluster.asked["num_cpus"] >= 4 and engine.at_once(9) == 2
        list(engine.run([], print))
    with OnRay(place, processors=10, gpus=1, remark=remarks.append) as engine:
        assert engine.at_once(9) == 1
        list(engine.run([], print))
    assert remarks == ["no machine of the cluster has 10 processors and 1 GPUs: they are waited for"]


def test_a_lost_machine_is_what_ray_says_of_it(monkeypatch, tmp_path):
    cluster, remarks = Ray(lose=1), []
    monkeypatch.setattr(on_ray, "_imported", lambda: cluster)
    monkeypatch.chdir(tmp_path)
    engine = OnRay(SharedFolders.around(tmp_path), threads=None, processors=2, gpus=0.5, remark=remarks.append)
    (ending,) = outcomes(engine, partial(far_works.double, 3))
    assert ending.value == 6 and "was lost (The actor died unexpectedly.); begun again" in remarks[1]
    assert cluster.options["num_cpus"] == 2 and cluster.options["num_gpus"] == 0.5 and len(cluster.killed) == 2


def test_machines_that_do_not_see_the_folder_are_refused(make, tmp_path):
    engine = make()
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    engine._folders = SharedFolders(tmp_path, tmp_path / "gone")
    (ending,) = outcomes(engine, far_works.fault)
    assert ending.failure.unusable and f"has no folder {tmp_path / 'gone'}: " in ending.failure.sentence


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch, tmp_path):
    class None_(Ray):
        def init(self, **asked: Any) -> None:
            raise ConnectionError("Could not find any running Ray instance.\nStart one.")

    monkeypatch.setattr(on_ray, "_imported", None_)
    with pytest.raises(InputError, match=r"--address auto cannot be had: Could not find any running Ray instance\.$"):
        OnRay(SharedFolders.around(tmp_path), "auto").__enter__()
