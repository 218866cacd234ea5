"""Commands that are interrupted: the same command goes on where it was, and nobody else meddles."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import forge, read

from avalanche_vlm import cli
from avalanche_vlm.commands import run as commands
from avalanche_vlm.errors import VLMWarning
from avalanche_vlm.storage import Lock
from avalanche_vlm.storage.documents import Document
from avalanche_vlm.studies import experiment
from avalanche_vlm.training import VLMNaive

pytestmark = pytest.mark.usefixtures("narrow_tiny")

SIZES = "--n-train 32 --n-test 8 --n-held-out 8 --n-reference 16 --epochs 2 --batch-size 16 --order sketches,night"


class Killed(BaseException):
    """Nobody catches it but the test."""


def words(out: Path, *more: str) -> list[str]:
    return ["run", "--out", str(out), *SIZES.split(), "--checkpoint-minutes", "0", *more]


def at(monkeypatch, what: Any, experience: int = 1, iteration: int = 3) -> None:
    """Do something when an iteration of a run is over.

    :param what: function without arguments; None for nothing.
    """
    real = experiment.run_experiment

    def watched(*given: Any, progress: Any = None, **options: Any) -> Any:
        def advance(*place: int) -> None:
            if place[:2] == (experience, iteration):
                what()

        return real(*given, progress=advance if what else None, **options)

    monkeypatch.setattr(experiment, "run_experiment", watched)


def killed() -> None:
    raise Killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody interrupts."""
    out = tmp_path_factory.mktemp("whole")
    assert cli.main(words(out, "--quiet")) == 0
    return out


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """A run that was killed in its second experience."""
    out = tmp_path_factory.mktemp("broken")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        at(patch, killed)
        cli.main(words(out, "--quiet"))
    for thread in threading.enumerate():
        if thread.name == "checkpoint":  # it writes behind the training, and would have been killed with it
            thread.join()
    gc.collect()  # its writer clears up when Python collects it, which a killed one would not have
    return out


def weights(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "model").glob("*.safetensors")}


def test_the_same_command_goes_on_and_ends_with_the_same_bytes(whole, broken, tmp_path, capsys):
    out = shutil.copytree(broken, tmp_path / "out")
    assert (out / "partial.json").exists() and not (out / "result.json").exists()
    assert cli.main(words(out)) == 0
    said = capsys.readouterr().err
    assert "fine-tune, seed 0: goes on from experience 1, epoch 1, iteration 0 (checkpoint of " in said
    assert (out / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert weights(out) == weights(whole) != {}
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}
    assert read(out / "timing.json")["total_seconds"] >= read(out / "timing.json")["train_seconds"]
    # Once more: it is finished, and what a process leaves that is killed behind its result is removed.
    (out / "partial.json").write_text("{}")
    assert cli.main(words(out)) == 0 and "finished before, kept" in capsys.readouterr().err
    assert not (out / "partial.json").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["--lr", "1e-5"],
            "holds an unfinished run with train.lr = 0.0005, not 1e-05: choose another --out, or remove ",
        ),
        (["--recipe", "wise-ft"], "holds an unfinished run with recipe = 'fine-tune', not 'wise-ft': choose another "),
        (["--n-test", "9"], "holds an unfinished run with stream.options.n_test = 8, not 9: choose another --out, or"),
    ],
)
def test_checkpoints_of_another_request_are_refused(broken, capsys, more, sentence):
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file() and path.name != ".lock"}
    assert cli.main(words(broken, *more)) == 2
    err = capsys.readouterr().err.strip()
    assert sentence in err and "\n" not in err
    assert {path: path.read_bytes() for path in before} == before


def test_another_request_of_which_nothing_was_trained_is_forgotten(tmp_path, capsys, monkeypatch):
    """As where an option was at fault that is mended now."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(VLMNaive, "training_epoch", lambda *given, **options: killed())
        cli.main(words(tmp_path, "--quiet", "--lr", "1e-5"))
    assert list((tmp_path / "checkpoint").glob("*.json"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        at(patch, killed)
        cli.main(words(tmp_path))
    assert "goes on from" not in capsys.readouterr().err and read(tmp_path / "request.yaml")["train"]["lr"] == 0.0005


def test_checkpoints_of_other_versions_and_of_other_data_are_refused(broken, tmp_path, capsys, monkeypatch):
    out = shutil.copytree(broken, tmp_path / "out")
    request = read(out / "request.yaml")
    forge(out / "request.yaml", versions={**request["versions"], "torch": "1.0"})
    assert cli.main(words(out)) == 2
    assert "holds an unfinished run with versions.torch = '1.0', not " in capsys.readouterr().err
    forge(out / "request.yaml", **request)
    from avalanche_vlm.commands import prepare

    real = prepare.protocol
    monkeypatch.setattr(
        prepare, "protocol", lambda *given: {**(p := real(*given)), "data": {**p["data"], "content": {"train": "x"}}}
    )
    assert cli.main(words(out)) == 2
    assert f"picturebook has changed since {out} was run (data.content." in capsys.readouterr().err


@pytest.mark.slow
def test_another_number_of_threads_is_named_and_goes_on(broken, tmp_path, capsys, monkeypatch):
    out, before = shutil.copytree(broken, tmp_path / "out"), torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: before + 1)
    with pytest.warns(VLMWarning, match=f"number of threads {before}, and now {before + 1}; the training goes on"):
        assert cli.main(words(out)) == 0
    assert "goes on from" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "compare", "advise", "diagnose"])
def test_a_second_process_in_a_folder_is_told_so(tmp_path, capsys, command, whole):
    folder = shutil.copytree(whole, tmp_path / "out")
    where = [str(folder)] if command == "diagnose" else ["--out", str(folder), *SIZES.split()]
    with Lock(folder):
        assert cli.main([command, *where]) == 2
    err = capsys.readouterr().err.strip()
    assert f"{folder} is in use by process {os.getpid()} on " in err and "choose another --out" in err
    assert "\n" not in err


def test_what_a_killed_process_left_of_a_write_is_removed(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    (out / ".result.json.0123456789abcdef.part").write_text("{")
    (out / "checkpoint").mkdir()
    (out / "matrix.png").unlink()
    assert cli.main(words(out, "--quiet")) == 0
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


# Signals --------------------------------------------------------------------------------------------------------------


def tell(number: int) -> Any:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_writes_a_checkpoint_and_ends_the_command(whole, tmp_path, capsys, monkeypatch, number, code):
    out = tmp_path / "out"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at(patch, tell(number))
        assert cli.main([*words(out), "--checkpoint-minutes", "10", "--quiet"]) == code
    err = capsys.readouterr().err.strip()
    assert err.startswith(f"avalanche-vlm: stopped by {signal.Signals(number).name}: ") and "\n" not in err
    assert "goes on from experience 1, epoch 1, iteration 1" in err and signal.getsignal(number) == before
    assert cli.main(words(out)) == 0
    assert "goes on from experience 1, epoch 1, iteration 1 (checkpoint of " in capsys.readouterr().err
    assert (out / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert weights(out) == weights(whole)


@pytest.mark.slow
def test_a_checkpoint_is_written_when_asked_for_and_the_run_goes_on(whole, tmp_path, capsys, monkeypatch):
    found = []

    def ask() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        real = Document.write

        def look(document: Document, path: Path, content: Any) -> None:  # the row after the experience
            found.extend(path.name for path in (tmp_path / "checkpoint").glob("*-within-*.json"))
            real(document, path, content)

        monkeypatch.setattr(Document, "write", look)

    at(monkeypatch, ask)
    assert cli.main([*words(tmp_path), "--checkpoint-minutes", "10", "--quiet"]) == 0
    assert "0001-within-0001-0000001.json" in found
    assert (tmp_path / "result.json").read_bytes() == (whole / "result.json").read_bytes()


def test_outside_of_training_a_command_ends_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "confirm_all", lambda jobs: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(words(tmp_path)) == 143
    assert capsys.readouterr().err.strip() == (
        f"avalanche-vlm: stopped by SIGTERM: what is finished is kept in {tmp_path}"
    )


@pytest.mark.slow
def test_compare_stops_after_what_was_interrupted_and_keeps_what_is_finished(tmp_path, capsys, monkeypatch):
    asked = ["compare", "--recipes", "zero-shot,fine-tune,wise-ft", "--out", str(tmp_path), *SIZES.split()]
    with monkeypatch.context() as patch:
        at(patch, tell(signal.SIGTERM))
        assert cli.main(asked) == 143
    assert (tmp_path / "zero-shot/seed-0/result.json").exists() and not (tmp_path / "wise-ft").exists()
    assert (tmp_path / "fine-tune/seed-0/checkpoint").exists()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "run_experiment", lambda *given, **options: killed())
        with pytest.raises(Killed):
            cli.main(asked)
    assert "zero-shot, seed 0: finished before, kept" in capsys.readouterr().err


def test_a_command_in_a_thread_hears_of_no_signals(tmp_path):
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["run", "--out", str(tmp_path), "--data", "/no"])))
    thread.start()
    thread.join()
    assert codes == [2]


def children(process: int) -> list[int]:
    """Processes that a process has started and that live."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("group", [False, True], ids=["the process", "its group"])
def test_worker_processes_end_with_the_command(tmp_path, group):
    """As a scheduler does it: to the process, or to all that it has started."""
    process = os.fork()
    if process == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            sys.stdout = sys.stderr = (tmp_path / "said").open("w")
            long = [*words(tmp_path / "out", "--workers", "2"), "--epochs", "500", "--checkpoint-minutes", "10"]
            code = cli.main(long)
            sys.stderr.flush()
        finally:
            os._exit(code)
    limit = time.monotonic() + 600
    while time.monotonic() < limit and not list((tmp_path / "out/checkpoint").glob("*-start.json")):
        time.sleep(0.05)
    while time.monotonic() < limit and not (workers := children(process)):
        time.sleep(0.01)
    began = time.monotonic()
    os.killpg(process, signal.SIGTERM) if group else os.kill(process, signal.SIGTERM)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 143 and time.monotonic() - began < 300
    assert "stopped by SIGTERM" in (tmp_path / "said").read_text()
    assert list((tmp_path / "out/checkpoint").glob("*.json"))
    while time.monotonic() < limit and any(map(alive, workers)):
        time.sleep(0.1)
    assert not any(map(alive, workers))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked for in /proc")
def test_a_second_signal_ends_the_command_at_once(tmp_path):
    process = os.fork()
    if process == 0:
        code = 99
        try:
            real = experiment.run_experiment

            def endless(*given: Any, progress: Any = None, **options: Any) -> Any:
                def wait(experience: int, iteration: int, iterations: int) -> None:
                    if not iteration:
                        return  # what is told of an evaluation, which a first signal ends at once
                    (tmp_path / "waits").touch()
                    until = time.monotonic() + 1000
                    while time.monotonic() < until:  # an iteration without an end
                        time.sleep(0.01)

                return real(*given, progress=wait, **options)

            experiment.run_experiment = endless  # type: ignore[assignment]
            code = cli.main(words(tmp_path / "out", "--quiet"))
        finally:
            os._exit(code)
    limit = time.monotonic() + 600
    while time.monotonic() < limit and not (tmp_path / "waits").exists():
        time.sleep(0.05)
    os.kill(process, signal.SIGTERM)
    time.sleep(0.5)
    assert os.waitpid(process, os.WNOHANG) == (0, 0)  # it waits for the iteration
    os.kill(process, signal.SIGTERM)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 143
