"""``compare`` and ``advise`` on a cluster: what is asked of it, what is refused, and the same bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from far_works import parent_of
from small_runs import SMALL, read, run

from avalanche_vlm import cli
from avalanche_vlm.commands import elsewhere, prepare, store
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.commands.checks import check
from avalanche_vlm.commands.durable import Command
from avalanche_vlm.commands.jobs import job_of
from avalanche_vlm.commands.pilots_at_once import PilotsAtOnce, try_in_worker
from avalanche_vlm.commands.progress import HeardProgress, Progress
from avalanche_vlm.commands.requests import Saving
from avalanche_vlm.commands.side_by_side import begin_imports
from avalanche_vlm.errors import InputError
from avalanche_vlm.studies.advice.halving import Trial
from avalanche_vlm.studies.elsewhere import known, on_ray
from avalanche_vlm.studies.parallel import Ending, Here
from avalanche_vlm.training import recipes


def asked(words: str, command: str = "compare") -> Any:
    return parse([command, "--out", "x", *words.split()])[1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--address auto", "--address does not apply to --engine local, only to ray"),
        ("--engine slurm --address auto", "--address does not apply to --engine slurm, only to ray"),
        ("--engine ray --partition a", "--partition does not apply to --engine ray, only to slurm"),
        ("--engine ray --job-minutes 20", "--job-minutes does not apply to --engine ray, only to slurm"),
        ("--job-memory 2", "--job-memory does not apply to --engine local, only to slurm"),
        ("--engine ray --sbatch account=a", "--sbatch does not apply to --engine ray, only to slurm"),
        ("--gpus 1", "--gpus does not apply to --engine local: --device says where runs train"),
        ("--engine ray --device cuda:1", "--device cuda:1 does not apply to --engine ray, which says itself which GPU"),
        ("--engine ray --device cpu --gpus 1", "--gpus 1 and --device cpu cannot both be meant"),
        ("--engine ray --device cuda --gpus 0", "--gpus 0 and --device cuda cannot both be meant"),
        ("--engine slurm --gpus 0.5", "--gpus 0.5: Slurm gives a run whole GPUs, and several share one only on ray"),
        ("--engine slurm --sbatch a=", "--sbatch 'a=': write NAME=VALUE, or NAME for an option that has no value"),
        ("--engine slurm --sbatch A=1", "--sbatch 'A=1': write NAME=VALUE, or NAME for an option that has no value"),
        ("--engine slurm --sbatch time=1", "--sbatch time is --job-minutes"),
        ("--engine slurm --sbatch array=1", "--sbatch array is said by this command"),
    ],
)
def test_what_does_not_apply_is_one_sentence(words, sentence):
    for command in ("compare", "advise"):
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
            asked(words, command)


def test_no_line_of_the_job_script_is_anothers():
    with pytest.raises(InputError, match="write NAME=VALUE"):
        parse(["compare", "--out", "x", "--engine", "slurm", "--sbatch", "account=a\n#SBATCH --uid=0"])


def test_what_is_not_installed_is_said_before_anything_is_imported(monkeypatch):
    monkeypatch.setattr(known, "find_spec", lambda name: None)
    for name, module in (("ray", "ray"), ("slurm", "submitit")):
        with pytest.raises(
            InputError, match=rf"^--engine {name} needs {module}: pip install 'avalanche-vlm\[{name}\]'$"
        ):
            check(asked(f"--engine {name}"))
    monkeypatch.setattr(known, "find_spec", lambda name: True)
    monkeypatch.setattr(known.shutil, "which", lambda program: None if program == "sacct" else program)
    with pytest.raises(InputError, match=r"^--engine slurm needs sacct, which is not on this machine's path$"):
        check(asked("--engine slurm"))


@pytest.mark.parametrize(
    ("words", "device", "gpus"),
    [
        ("", "cpu", 0),
        ("--gpus 0.5", "cuda", 0.5),
        ("--device cuda", "cuda", 1),
        ("--device cuda --gpus 1", "cuda", 1),
        ("--gpus 0", "cpu", 0),
        ("--device cpu", "cpu", 0),
    ],
)
def test_what_auto_stands_for_there_is_said_by_the_gpus(words, device, gpus):
    request = asked(f"--engine ray {words}")
    assert request.device == device and request.engine.gpus_on(request.device) == gpus
    found = prepare.experiment(request, "fine-tune", 0)  # whatever this machine has
    assert found.device == device


def test_what_is_asked_for_each_is_said_by_the_request(monkeypatch, tmp_path):
    made: list[tuple[Any, ...]] = []

    @contextmanager
    def ray(*given: Any, **told: Any) -> Iterator[Any]:
        made.append((*given[1:], {name: told[name] for name in ("threads", "processors", "gpus", "jobs")}))
        yield None

    monkeypatch.setattr(elsewhere, "OnRay", ray)
    monkeypatch.chdir(tmp_path)
    words = "--engine ray --address here:1 --gpus 0.5 --threads 3 --workers 2 --jobs 4"
    with elsewhere.cluster(asked(words), "cuda", print), elsewhere.cluster(asked("--engine ray"), "cpu", print):
        pass
    assert made == [
        ("here:1", {"threads": 3, "processors": 5, "gpus": 0.5, "jobs": 4}),
        (None, {"threads": 1, "processors": 1, "gpus": 0.0, "jobs": None}),
    ]
    slurm = "--engine slurm --device cuda --partition p --job-minutes 30 --job-memory 4"
    slurm += " --sbatch account=a --sbatch exclusive"
    with elsewhere.cluster(asked(slurm), "cuda", print) as engine:
        parameters = engine._parameters
    assert parameters | {"partition": "p", "time": 30, "mem": "4096M", "gpus_per_node": 1} == parameters
    assert parameters["additional_parameters"] == {"requeue": True, "account": "a", "exclusive": True}


@pytest.mark.parametrize(("command", "engine"), [("compare", "slurm"), ("advise", "ray")])
def test_a_recipe_that_a_script_declares_is_refused_before_anything_is_handed_in(monkeypatch, command, engine):
    request = asked(f"--engine {engine} --recipes lora", command)
    monkeypatch.setattr(elsewhere, "OnRay", lambda *given, **told: pytest.fail("handed in"))
    monkeypatch.setattr(recipes.get("lora").compose, "__module__", "__main__")
    with (
        pytest.raises(InputError, match=f"^--engine {engine}: lora is declared in a script or notebook, which other"),
        elsewhere.cluster(request, "cpu", print),
    ):
        pass


def test_other_versions_are_refused():
    here = elsewhere.versions_here()
    elsewhere.refuse_other_versions(here)
    with pytest.raises(InputError, match=r"has torch .*, and 1\.0 is on the machine that compares"):
        elsewhere.refuse_other_versions({**here, "torch": "1.0"})
    with pytest.raises(InputError, match=r"has tokenizers .*, and 0\.1 is on the machine that compares"):
        elsewhere.execute_elsewhere(None, {**here, "tokenizers": "0.1"}, None, False, print)
    with pytest.raises(InputError, match=r"has numpy .*, and 1\.0 is on the machine that compares"):
        try_in_worker(None, {**here, "numpy": "1.0"}, None, 0.0, time.time, None, False, print)


def test_a_pilot_that_the_cluster_had_no_room_for_was_late():
    class Full:
        def run(self, works: Any, hear: Any) -> Iterator[Ending]:
            (work,) = works
            assert work.begin_by == pytest.approx(time.time() + 5, abs=1)
            yield Ending.late(0)

    pilots = SimpleNamespace(before_training=lambda: None)
    stream = SimpleNamespace(pilots=pilots, clock=lambda: 10.0)
    words = asked("--engine ray", "advise"), stream, 1, lambda works: Full(), Progress(None, True), Command(None)
    ((name, tried),) = PilotsAtOnce(*words)([Trial("lora", 0.25, 1.0)], 15.0)
    assert name == "lora" and tried.late and tried.failure is None
    assert tried.why == "not run on 25% of the data: the time was up"


def test_no_processes_are_begun_here_for_a_cluster(monkeypatch):
    monkeypatch.setattr("avalanche_vlm.commands.side_by_side.prepare_workers", lambda modules: pytest.fail("begun"))
    begin_imports(asked("--engine ray --jobs 2"))
    assert asked("--engine ray").elsewhere and not asked("--engine ray", "advise").elsewhere
    assert not asked("").elsewhere


def test_progress_of_what_has_not_begun_to_tell_is_nothing():
    HeardProgress(Progress(None, True))(0, ("advance", 1, 2, 3))


class Near(Here):
    """A cluster that is this process, and does last things first."""

    def __init__(self, *given: Any, **told: Any) -> None:
        self.told = told

    def __enter__(self) -> Near:
        return self

    def __exit__(self, *_: object) -> None: ...

    def at_once(self, works: int) -> int:
        return 2

    def run(self, works: Any, hear: Any) -> Any:
        DONE.append([work.name for work in works])
        for ending in super().run(works, hear):
            hear(ending.index, ("say", "a remark"))
            yield ending


DONE: list[list[str]] = []


@pytest.fixture
def near(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(elsewhere, "OnRay", Near)
    monkeypatch.setattr("avalanche_vlm.commands.checks.refuse_no_engine", lambda name: None)
    DONE.clear()
    yield
    torch.set_num_threads(1)


@pytest.mark.slow
def test_runs_that_are_finished_are_kept_and_the_others_are_done_there(near, tmp_path, capsys):
    words = ["compare", "--engine", "ray", "--out", str(tmp_path), "--recipes"]
    assert run(*words, "zero-shot") == 0 and run(*words, "zero-shot,simplecil") == 0 and run(*words, "simplecil") == 0
    assert DONE == [["zero-shot, seed 0"], ["simplecil, seed 0"]]
    assert "a remark" not in capsys.readouterr().err  # --quiet
    here = tmp_path / "here"
    assert run("compare", "--recipes", "simplecil", "--out", str(here), "--jobs", "1") == 0
    place = "simplecil/seed-0/result.json"
    assert (here / place).read_bytes() == (tmp_path / place).read_bytes()
    # A worker that is lost when it has written its result has done all: the next one keeps it.
    asked_for = read_asked(tmp_path / "simplecil/seed-0")
    job = job_of(asked_for, tmp_path / "new", Saving(model=False))
    shutil.copytree(tmp_path / "simplecil/seed-0", tmp_path / "new")
    told: list[Any] = []
    entry = elsewhere.execute_elsewhere(job, elsewhere.versions_here(), None, False, told.append)
    assert entry["result"]["matrix"] == read(tmp_path / place)["matrix"]
    assert ("say", f"{job}: finished before, kept") in told


def read_asked(folder: Path) -> Any:
    return store.read_experiment(store.request_of(folder))


@pytest.mark.slow
def test_pilots_are_tried_there_and_say_the_same(near, tmp_path):
    words = ["advise", "--recipes", "fine-tune,wise-ft", "--minutes", "20", *SMALL]
    assert cli.main([*words, "--engine", "ray", "--out", str(tmp_path / "there")]) == 0
    assert DONE and {name for names in DONE for name in names} == {"fine-tune", "wise-ft"}
    assert cli.main([*words, "--jobs", "1", "--out", str(tmp_path / "here")]) == 0
    there, here = (
        [row["recipes"] for row in json.loads((tmp_path / name / "advice.json").read_text())["rounds"]]
        for name in ("there", "here")
    )
    scores = [[(of["recipe"], of["last"]) for of in row] for row in there]
    assert scores == [[(of["recipe"], of["last"]) for of in row] for row in here]


# On Ray itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def ray_home(monkeypatch) -> Iterator[None]:
    """A place for Ray's own files, whose names may not be long."""
    if find_spec("ray") is None:  # who imports it first decides what it prints
        pytest.skip("Ray is not installed")
    home = tempfile.mkdtemp(prefix="ray-")
    monkeypatch.setenv("RAY_TMPDIR", home)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    yield
    shutil.rmtree(home, ignore_errors=True)


def once_there(found: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        limit = time.monotonic() + 300
        while not found() and time.monotonic() < limit:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_is_gone_on_from_bit_by_bit(ray_home, tmp_path, capfd):
    folder, out = tmp_path / "out/fine-tune/seed-0", tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        trains = int(json.loads((folder / ".lock").read_text())["pid"])
        killed.append(watches := parent_of(parent_of(trains)))
        os.kill(watches, signal.SIGKILL)

    words = ["compare", "--recipes", "fine-tune,wise-ft", *SMALL, "--checkpoint-minutes", "0"]
    words.remove("--quiet")
    thread = once_there(lambda: bool(list(folder.glob("checkpoint/0001-within-*.json"))), kill)
    assert cli.main([*words, "--engine", "ray", "--out", str(out)]) == 0
    thread.join()
    told = capfd.readouterr()
    assert len(killed) == 1 and re.search(
        r"^fine-tune, seed 0: its worker on \S+ was lost \(.*\); begun again, 1 of 2 times\n"
        r"fine-tune, seed 0: goes on from experience 1, ",
        told.err,
        re.MULTILINE,
    ), told.err
    assert not re.search("ray::|raylet|WARNING|Traceback|INFO", told.err + told.out)
    assert cli.main([*words, "--jobs", "1", "--threads", "1", "--out", str(tmp_path / "never")]) == 0
    for recipe in ("fine-tune", "wise-ft"):
        place = f"{recipe}/seed-0/result.json"
        assert (out / place).read_bytes() == (tmp_path / "never" / place).read_bytes()
    assert on_ray.RESTARTS == 2
