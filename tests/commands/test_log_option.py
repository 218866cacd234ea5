"""``--log``: a training that is logged is the training that it would have been, and its log goes on with it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mini import mini
from safetensors.torch import load_file
from small_runs import read, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avalanche_vlm import cli
from avalanche_vlm.benchmarks import picturebook
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.commands.jobs import Job, Logs
from avalanche_vlm.evaluation.views import Views
from avalanche_vlm.report.tracking import Trackers
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import CheckpointPlugin
from avalanche_vlm.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("narrow_tiny")


def table(path: Path) -> list[tuple[str, int, float]]:
    return [(row["metric"], int(row["step"]), float(row["value"])) for row in csv.DictReader(path.open())]


@pytest.mark.slow
def test_a_logged_run_ends_with_the_bytes_of_one_that_is_not(tmp_path, capsys):
    for name, more in (("without", ()), ("with", ("--log", "csv, tensorboard,csv"))):
        assert run("run", "--recipe", "replay", "--out", str(tmp_path / name), *more) == 0
    assert capsys.readouterr().err == ""
    results = [(tmp_path / name / "result.json").read_bytes() for name in ("without", "with")]
    assert results[0] == results[1]
    weights = [load_file(tmp_path / name / "versions/v1/model.safetensors") for name in ("without", "with")]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert not (tmp_path / "without/logs").exists()
    logged = table(tmp_path / "with/logs/csv/metrics.csv")
    result = read(tmp_path / "with/result.json")
    scores = {(name, step): value for name, step, value in logged}
    for row, cells in enumerate(result["matrix"]):
        for task, cell in enumerate(cells):
            assert 100 * scores[f"Score/test/exp{task}", row] == pytest.approx(cell, abs=1e-4)
    for name in ("last", "avg", "transfer", "forget", "bwt", "zsd"):
        assert 100 * scores[f"Survey/test/{name}", 2] == pytest.approx(result["metrics"][name], abs=1e-4)
    steps = [step for name, step, _ in logged if name == "Train/loss"]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 2
    known = json.loads((tmp_path / "with/logs/csv/run.json").read_text())
    assert known["run"] == result["run"] and known["tags"]["recipe"] == "replay"
    board = EventAccumulator(str(tmp_path / "with/logs/tensorboard"))
    board.Reload()
    assert [event.step for event in board.Images("Confusions/test")] == [0, 1, 2]
    assert {name for name, *_ in logged} == set(board.Tags()["scalars"])


@pytest.mark.slow
def test_every_run_of_a_comparison_has_its_log(tmp_path):
    arguments = ["compare", "--recipes", "zero-shot,lora", "--jobs", "2", "--threads", "2", "--log", "csv"]
    assert run(*arguments, "--out", str(tmp_path)) == 0
    for row in ("zero-shot", "lora"):
        assert table(tmp_path / f"logs/csv/{row}/seed-0/metrics.csv")
    assert cli.main(["report", str(tmp_path)]) == 0


class Killed(BaseException):
    """Nobody catches it but the test."""


def logged(folder: Path, kill: int | None = None, log: tuple[str, ...] = ("csv", "tensorboard")):
    """A run with a checkpoint after every second iteration, killed before one of them is over; and its log."""
    torch.set_num_threads(1)  # whatever a command before has set: last digits depend on it
    seen = 0
    checkpoint = CheckpointPlugin(folder / "checkpoint", None)

    def progress(experience: int, iteration: int, iterations: int) -> None:
        nonlocal seen
        seen += 1
        if seen % 2:
            checkpoint.request()
        if seen == kill:
            raise Killed

    benchmark = picturebook.mtil_like(order=["sketches", "night"], n_train=24, n_test=8, n_held_out=8, n_reference=8)
    views = Views(benchmark, 4)
    with Trackers(log, folder) as trackers:
        outcome = run_experiment(
            benchmark,
            "fine-tune",
            model=mini(),
            settings=TrainSettings(lr=1e-3, epochs=2, batch_size=8),
            progress=progress,
            checkpoint=checkpoint,
            metrics=[*trackers.metrics, *views.metrics],  # as a command has them
            loggers=trackers,
        )
    return outcome, views.as_json()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return *logged(folder), sorted(table(folder / "csv/metrics.csv"))


def test_a_log_changes_no_bit_of_what_is_trained(tmp_path, whole):
    result, _, steps = whole
    without, _ = logged(tmp_path, log=())
    assert json.dumps(without.result) == json.dumps(result.result)
    weights = result.strategy.model.state_dict()
    assert all(torch.equal(w, weights[n]) for n, w in without.strategy.model.state_dict().items() if torch.is_tensor(w))
    assert {name for name, *_ in steps} >= {"Train/loss", "Train/gradient_norm", "Score/test/exp1"}
    assert not (tmp_path / "csv").exists()


def test_the_log_of_a_killed_run_goes_on_and_has_every_step_once(tmp_path, whole):
    result, _, steps = whole
    with pytest.raises(Killed):
        logged(tmp_path, kill=7)
    before = table(tmp_path / "csv/metrics.csv")
    assert 0 < len(before) < len(steps)
    again, _ = logged(tmp_path)
    assert json.dumps(again.result) == json.dumps(result.result)
    assert again.seconds_before > 0
    found = table(tmp_path / "csv/metrics.csv")
    assert found[: len(before)] == before and sorted(found) == steps
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    losses = [(event.step, event.value) for event in board.Scalars("Train/loss")]
    assert losses == [(step, pytest.approx(value)) for name, step, value in steps if name == "Train/loss"]


def test_a_start_that_goes_on_from_no_checkpoint_has_a_new_log(tmp_path, whole):
    *_, steps = whole
    with pytest.raises(Killed):
        logged(tmp_path, kill=7)
    before = (tmp_path / "csv/metrics.csv").read_bytes()
    shutil.rmtree(tmp_path / "checkpoint")  # as a command forgets the start of another request
    logged(tmp_path)
    assert sorted(table(tmp_path / "csv/metrics.csv")) == steps
    assert (tmp_path / "csv/earlier-1/metrics.csv").read_bytes() == before
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 1


def test_a_run_goes_on_with_a_log_that_it_had_not_and_without_one_that_it_had(tmp_path, whole):
    result, views, steps = whole
    for folder, first, second in ((tmp_path / "late", (), ("csv",)), (tmp_path / "early", ("csv",), ())):
        with pytest.raises(Killed):
            logged(folder, kill=12, log=first)
        again, seen = logged(folder, log=second)
        assert json.dumps(again.result) == json.dumps(result.result) and seen == views
    found = table(tmp_path / "late/csv/metrics.csv")
    assert set(found) < set(steps) and ("Survey/test/last", 2) in {(name, step) for name, step, _ in found}


REFUSED = [
    (
        "run --log tesnorboard",
        "--log has 'tesnorboard' (did you mean tensorboard?), and there is csv, tensorboard, wandb, mlflow",
    ),
    ("compare --log csv,missing", "--log missing needs missing: pip install 'avalanche-vlm[missing]'"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=["unknown", "not installed"])
def test_a_tracker_that_is_not_there_is_told_before_torch_is_imported(tmp_path, words, sentence):
    code = (
        "import sys\nfrom avalanche_vlm import cli\nfrom avalanche_vlm.report.tracking import known\n"
        "known.TRACKERS = {**known.TRACKERS}\n"
        "if 'missing' in sys.argv[-1] or any('missing' in word for word in sys.argv):\n"
        "    known.TRACKERS['missing'] = known.KnownTracker('nowhere:Nothing', ('missing',))\n"
        "code = cli.main(sys.argv[1:])\nprint(code, 'torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    arguments = [*words.split(), "--out", str(tmp_path / "run")]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert found.stderr.strip() == f"avalanche-vlm: {sentence}" and found.stdout.split() == ["2", "False", "False"]
    assert not (tmp_path / "run").exists()


def test_a_remark_on_a_log_names_its_run(tmp_path):
    (tmp_path / "logs").write_text("no folder")
    asked, said = SimpleNamespace(run_id="ab", seed=1), []
    job = Job(asked, tmp_path / "lora/seed-1", None, None, None, row="lora")
    assert Logs(("csv",), tmp_path).of(job, said.append)({"recipe": "lora"}) == []
    assert len(said) == 1 and said[0].startswith("lora, seed 1: csv logs nothing, and the training goes on: ")


def test_a_file_of_options_says_trackers_as_a_list(tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("log: [csv, tensorboard]\nout: x\n")
    assert parse(["run", "--config", str(file)])[1].log == ("csv", "tensorboard")
    assert parse(["compare", "--config", str(file), "--log", "csv"])[1].log == ("csv",)
    with pytest.raises(SystemExit):
        cli.main(["run", "--config", str(file), "--dump-config"])
    dumped = tmp_path / "b.yaml"
    dumped.write_text(capsys.readouterr().out)
    assert parse(["run", "--config", str(dumped)])[1].log == ("csv", "tensorboard")
    assert parse(["run", "--out", "x"])[1].log == ()
