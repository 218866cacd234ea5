"""Trackers: what they write, how they go on, and what happens where they fail."""

from __future__ import annotations

import csv
import json
import os
import random
import socket
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from avalanche.evaluation.metric_results import MetricValue
from avalanche.logging import BaseLogger, WandBLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.tracked import DrawnCounts
from avalanche_vlm.report.plots import confusions
from avalanche_vlm.report.tracking import Guarded, Trackers, known, tracked_metrics, trackers
from avalanche_vlm.report.tracking.about import about_run
from avalanche_vlm.report.tracking.guarded import why
from avalanche_vlm.report.tracking.mlflow_run import address_of
from avalanche_vlm.report.tracking.wandb_run import WandBTracker

PROTOCOL = {
    "recipe": "lora",
    "seed": 3,
    "benchmark": "picturebook-mtil",
    "label_space": "task",
    "model": "tiny",
    "train": {"lr": 0.1},
    "odd@name": 1,
    "data": {"path": "/home/of/somebody"},
}
TAGS = {"recipe": "lora", "seed": "3", "benchmark": "picturebook-mtil", "label_space": "task", "model": "tiny"}


def values(step: int, *, picture: bool = False, **named: float) -> list[MetricValue]:
    found = [MetricValue(None, name.replace("__", "/"), value, step) for name, value in named.items()]
    if picture:
        counts = DrawnCounts(np.array([[3, 1], [0, 2]]), ["cat", "dog"], confusions)
        found.append(MetricValue(None, "Confusions/test", counts, step))
    return found


def opened(folder: Path, *names: str, run: str = "ab12", **options) -> list[Guarded]:
    """Trackers of a run."""
    remarks: list[str] = []
    found = trackers(names, folder, PROTOCOL, run=run, remark=remarks.append, **options)
    assert not remarks
    return found


def table(folder: Path) -> list[tuple[str, ...]]:
    return [tuple(row.values()) for row in csv.DictReader((folder / "csv/metrics.csv").open())]


def killed(tracker: Guarded) -> None:
    """What a process leaves that is killed behind a checkpoint."""
    tracker.flush()


def test_a_table_goes_on_where_an_interrupted_run_was(tmp_path):
    (first,) = opened(tmp_path, "csv")
    for step in (1, 2, 3):
        first.log_metrics(values(step, Train__loss=1 / step, picture=True))
    killed(first)
    with (tmp_path / "csv/metrics.csv").open("a") as file:
        file.write("4,Train/lo")  # the kill was in the write
    (second,) = opened(tmp_path, "csv", goes_on=True)
    for step in (2, 3, 4):
        second.log_metrics(values(step, Train__loss=1 / step, Score__new=float("inf")))
    second.close(True)
    assert table(tmp_path) == [
        ("1", "Train/loss", "1.0"),
        ("2", "Train/loss", "0.5"),
        ("3", "Train/loss", repr(1 / 3)),
        ("2", "Score/new", "inf"),
        ("3", "Score/new", "inf"),
        ("4", "Train/loss", "0.25"),
        ("4", "Score/new", "inf"),
    ]
    about = json.loads((tmp_path / "csv/run.json").read_text())
    assert about["tags"] == {**TAGS, "run": "ab12"} and about["title"] == "lora, seed 3"
    assert about["settings"]["train.lr"] == 0.1 and "somebody" not in json.dumps(about)


@pytest.mark.parametrize("again", [{}, {"run": "other"}, {"run": "other", "goes_on": True}])
def test_a_log_that_does_not_go_on_is_set_aside(tmp_path, again):
    known = set()
    for _ in range(2):
        for options in ({}, again):
            for tracker in opened(tmp_path, "csv", "tensorboard", **options):
                tracker.log_metrics(values(1, Train__loss=1.0))
                tracker.close(True)
            known.add(json.loads((tmp_path / "csv/run.json").read_text())["log"])
            assert table(tmp_path) == [("1", "Train/loss", "1.0")]
    assert len(known) == 4
    for number in (1, 2, 3):
        aside = tmp_path / f"csv/earlier-{number}"
        assert {path.name for path in aside.iterdir()} == {"metrics.csv", "run.json"}
        (events,) = (tmp_path / f"tensorboard/earlier-{number}").glob("events*")
        assert events.stat().st_size > 100
    assert len(list((tmp_path / "tensorboard").glob("events*"))) == 1


def test_runs_side_by_side_have_a_log_each(tmp_path):
    (beside,) = opened(tmp_path, "csv", run="other", within="lora/seed-1")
    beside.close(True)
    assert (tmp_path / "csv/lora/seed-1/metrics.csv").exists()


def test_tensorboard_shows_every_step_once_and_every_picture(tmp_path):
    for steps in ((1, 2, 3), (2, 3, 4)):
        (tracker,) = opened(tmp_path, "tensorboard", goes_on=steps[0] > 1)
        for step in steps:
            tracker.log_metrics(values(step, Train__loss=float(step), picture=step == 3))
        killed(tracker)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("Train/loss")] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    (picture,) = found.Images("Confusions/test")
    assert picture.step == 3 and picture.encoded_image_string.startswith(b"\x89PNG") and picture.width > 100
    (text,) = found.Tensors("protocol/text_summary")
    assert b"| train.lr | 0.1 |" in text.tensor_proto.string_val[0]


class Full(BaseLogger):
    """A logger on a disk that is full from the second value on, and draws numbers."""

    def __init__(self):
        super().__init__()
        self.told, self.closed = [], 0

    def log_single_metric(self, name, value, x_plot):
        random.random(), torch.rand(1), np.random.rand()
        if self.told:
            raise OSError(28, "No space left on device")
        self.told.append(value)

    def after_eval(self, strategy, metric_values):
        self.told.append(strategy)

    def close(self, finished):
        self.closed += 1
        raise OSError(28, "No space left on device")


def test_a_logger_that_fails_is_one_remark_and_draws_nothing_of_the_training_s():
    remarks: list[str] = []
    full = Full()
    guarded = Guarded("csv", full, remarks.append)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    guarded.log_metrics(values(1, a=1.0))
    for step in (2, 3):
        guarded.log_metrics(values(step, a=1.0))
    assert remarks == ["csv logs no more, and the training goes on: [Errno 28] No space left on device"]
    assert full.told == [1.0] and guarded.failed
    now = random.getstate(), torch.get_rng_state(), np.random.get_state()[1]
    assert states[0] == now[0] and torch.equal(states[1], now[1]) and np.array_equal(states[2], now[2])
    for _ in range(2):
        guarded.close(True)
    assert full.closed == 1 and len(remarks) == 1  # once, and what fails then is no news


def test_callbacks_of_a_logger_are_handed_on_and_nothing_else():
    full = Full()
    guarded = Guarded("x", full, print)
    guarded.after_eval("strategy", [])
    assert full.told == ["strategy"]
    assert not hasattr(guarded, "before_eval") and not hasattr(guarded, "anything")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_in_one_sentence(tmp_path):
    remarks: list[str] = []
    (tracker,) = trackers(["csv"], tmp_path, PROTOCOL, remark=remarks.append)
    descriptor = os.open("/dev/full", os.O_WRONLY)
    os.dup2(descriptor, tracker.logger._file.fileno())
    os.close(descriptor)
    for step in (1, 2):
        tracker.log_metrics(values(step, Train__loss=1.0))
    assert len(remarks) == 1 and "No space left on device" in remarks[0]


def test_what_is_not_installed_or_not_there_is_said_before_anything_is_opened(tmp_path, monkeypatch):
    with pytest.raises(
        InputError,
        match=r"--log has 'tesnorboard' \(did you mean tensorboard\?\), and there is csv, tensorboard, wandb, mlflow",
    ):
        trackers(["csv", "tesnorboard"], tmp_path)
    monkeypatch.setattr(known, "find_spec", lambda name: None if name == "alembic" else object())
    with pytest.raises(InputError, match=r"mlflow with alembic: pip install 'avalanche-vlm\[mlflow\]'"):
        trackers(["mlflow"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_tracker_nothing_is_measured_and_without_pictures_none_are_drawn(tmp_path):
    assert Trackers().metrics == [] and Trackers()({}) == []
    assert [type(metric).__name__ for metric in tracked_metrics(["csv"])] == ["TrainingCurves", "SurveyCurves"]
    assert [type(metric).__name__ for metric in tracked_metrics()][2:] == ["Confusions"]


def test_a_run_is_known_by_its_protocol_wherever_its_data_lie():
    there = about_run({**PROTOCOL, "data": {"path": "/elsewhere"}})
    assert there.run == about_run(PROTOCOL).run != about_run({**PROTOCOL, "seed": 4}).run


def test_any_protocol_and_any_name_can_be_logged(tmp_path):
    protocol = {
        "recipe": "ca\udce9\nfe",
        "lr": np.float32(0.5),
        "at": Path("/x"),
        "rate": float("inf"),
        "of": {
            1,
        },
    }
    name = "Score/caf\udce9\n1,a,2\x1b[2J"
    for goes_on in (False, True):
        remarks: list[str] = []
        found = trackers(["csv", "tensorboard"], tmp_path, protocol, goes_on=goes_on, remark=remarks.append)
        for tracker in found:
            tracker.log_metrics(values(1, **{name: 1.0}))
            tracker.close(True)
        assert len(found) == 2 and not remarks
    shown = "Score/caf\\udce9 1,a,2\\x1b[2J"
    assert table(tmp_path) == [("1", shown, "1.0")]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [len(board.Scalars(of)) for of in board.Tags()["scalars"]] == [1]
    about = json.loads((tmp_path / "csv/run.json").read_text())
    assert about["settings"]["rate"] == "inf" and about["settings"]["lr"] == "0.5" and about["settings"]["at"] == "/x"


def test_an_error_is_told_without_user_and_password():
    said = why(OSError("https://me:p@ss@host/x?of=a@b and http://host/y@z"))
    assert said == "https://host/x?of=a@b and http://host/y@z"


# Weights & Biases ---------------------------------------------------------------------------------------------------


class FakeRun:
    def __init__(self, **options):
        self.options, self.told, self.axes, self.ended = options, [], [], None

    def define_metric(self, name, **options):
        self.axes.append((name, options))

    def log(self, entry):
        self.told.append(entry)

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.fixture
def wandb(monkeypatch):
    """wandb as far as a tracker calls it."""
    fake = ModuleType("wandb")
    fake.__version__ = "0.31.0"
    fake.runs, fake.gone = [], None
    fake.errors = SimpleNamespace(CommError=type("CommError", (Exception,), {}))
    fake.settings = SimpleNamespace(
        mode="online", base_url="https://api.wandb.ai", api_key=None, identity_token_file=None
    )

    def setup():
        fake.settings.mode = os.environ.get("WANDB_MODE", fake.settings.mode)
        return SimpleNamespace(settings=fake.settings)

    fake.setup = setup

    def init(**options):
        if fake.gone and options["mode"] is None:
            raise fake.gone
        fake.runs.append(FakeRun(**options))
        return fake.runs[-1]

    fake.init, fake.Settings = init, lambda **options: SimpleNamespace(**options)
    fake.Image, fake.Histogram = lambda value: ("image", type(value).__name__), lambda value: ("histogram", value)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(known, "find_spec", lambda name: object())
    monkeypatch.setattr(known, "version", lambda name: fake.__version__)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    return fake


def test_wandb_gets_values_of_a_step_together_on_their_own_axis(tmp_path, wandb):
    (tracker,) = opened(tmp_path, "wandb")
    assert isinstance(tracker.logger, WandBLogger)
    tracker.log_metrics(values(500, Train__loss=0.5, Train__learning_rate=0.1))
    tracker.log_metrics(values(1, Score=0.25, picture=True))  # a lower step is not dropped
    (run,) = wandb.runs
    options = run.options
    assert (options["name"], options["project"]) == ("lora, seed 3", "avalanche-vlm")
    assert (options["mode"], options["resume"], options["reinit"]) == ("offline", "allow", "create_new")
    assert {"recipe:lora", "seed:3", "run:ab12"} <= set(options["tags"]) and options["config"]["train.lr"] == 0.1
    assert 0 < options["settings"].finish_timeout < 300 and options["settings"].finish_timeout_raises
    assert ("*", {"step_metric": "x_plot"}) in run.axes
    assert run.told == [
        {"Train/loss": 0.5, "Train/learning_rate": 0.1, "x_plot": 500},
        {"Score": 0.25, "Confusions/test": ("image", "Figure"), "x_plot": 1},
    ]
    (again,) = opened(tmp_path, "wandb", goes_on=True)
    again.log_metrics(values(501, Train__loss=0.25))
    assert wandb.runs[1].options["id"] == options["id"] and wandb.runs[1].told == [{"Train/loss": 0.25, "x_plot": 501}]
    again.close(False)
    assert wandb.runs[1].ended == 1
    for elsewhere in ({"within": "lora/seed-1"}, {}):  # another run, and another start of the same
        opened(tmp_path, "wandb", **elsewhere)
    opened(tmp_path / "copy", "wandb")
    assert len({run.options["id"] for run in wandb.runs}) == 4


def test_wandb_logs_to_the_disk_where_the_server_does_not_answer(tmp_path, wandb, monkeypatch):
    wandb.gone = wandb.errors.CommError("timed out at https://me:secret@host/")
    monkeypatch.setenv("WANDB_API_KEY", "k")
    remarks: list[str] = []
    assert len(trackers(["wandb"], tmp_path, PROTOCOL, remark=remarks.append)) == 1
    assert wandb.runs[0].options["mode"] == "offline" and "the server does not answer: timed out" in remarks[0]
    assert "secret" not in remarks[0] and "https://host/" in remarks[0]
    wandb.gone = ValueError("no such entity")
    assert len(trackers(["wandb"], tmp_path, PROTOCOL, remark=remarks.append)) == 1
    assert remarks.pop().endswith("since it could not begin on the server: no such entity")
    monkeypatch.setenv("WANDB_MODE", "online")  # it is the user's word
    assert trackers(["wandb"], tmp_path, PROTOCOL, remark=remarks.append) == []
    assert remarks[1] == "wandb logs nothing, and the training goes on: no such entity"
    monkeypatch.delenv("WANDB_API_KEY")  # nobody is asked for it
    assert trackers(["wandb"], tmp_path, PROTOCOL, remark=remarks.append) == []
    assert "WANDB_MODE is online, and there is no key for https://api.wandb.ai: wandb login" in remarks[2]


@pytest.mark.parametrize(
    ("settings", "entry", "mode"),
    [
        ({"mode": "offline", "api_key": "k"}, None, None),  # ``wandb offline``
        ({"mode": "disabled"}, None, None),
        ({"base_url": "https://own.host:8080", "api_key": "k"}, None, None),
        ({"base_url": "https://own.host:8080"}, "own.host:8080", None),
        ({"base_url": "https://own.host:8080"}, "elsewhere", "offline"),
        ({"identity_token_file": "/token"}, None, None),
        ({}, "api.wandb.ai", None),
        ({}, None, "offline"),
    ],
)
def test_wandb_s_own_settings_say_where_it_logs(tmp_path, wandb, monkeypatch, settings, entry, mode):
    vars(wandb.settings).update(settings)
    if entry is not None:
        (tmp_path / "netrc").write_text(f"machine {entry} login user password {'k' * 40}\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    opened(tmp_path, "wandb")
    assert wandb.runs[0].options["mode"] == mode


def test_a_wandb_that_is_too_old_is_told_before_anything_is_opened(tmp_path, wandb):
    wandb.__version__ = "0.9.7"
    with pytest.raises(InputError, match=r"^--log wandb needs wandb 0\.31 or newer, and 0\.9\.7 is installed: pip"):
        trackers(["wandb"], tmp_path, PROTOCOL)
    wandb.__version__ = "1.0"
    opened(tmp_path, "wandb")


@pytest.mark.slow
def test_the_real_wandb_logs_off_line(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", ["avalanche-vlm", "run", "--data", "/home/of/a-patient"])
    monkeypatch.setattr("avalanche_vlm.report.tracking.wandb_run.PATIENCE", 120.0)
    (tracker,) = opened(tmp_path, "wandb", run="cd34")
    tracker.log_metrics(values(1, Train__loss=0.5, picture=True))
    tracker.log_metrics(values(0, Score=0.5))
    tracker.close(True)
    assert not tracker.failed
    (run,) = (tmp_path / "wandb/wandb").glob("offline-*/run-*.wandb")
    until = time.monotonic() + 10  # its own process writes on for a moment
    while b"Score" not in run.read_bytes() and time.monotonic() < until:
        time.sleep(0.05)
    assert all(name in run.read_bytes() for name in (b"Train/loss", b"Score", b"x_plot", b"recipe:lora"))
    for private in ("a-patient", "somebody", str(Path.cwd()), socket.gethostname(), sys.executable, "torch=="):
        assert private.encode() not in run.read_bytes(), private
    assert len(list((tmp_path / "wandb/wandb").glob("offline-*/**/*.png"))) == 1


def test_avalanche_s_own_wandb_logger_is_still_broken(tmp_path, wandb, monkeypatch):
    wandb.util, wandb.run = SimpleNamespace(), None
    with pytest.raises(AttributeError, match="generate_id"):
        WandBLogger(dir=tmp_path)
    assert issubclass(WandBTracker, WandBLogger)


# MLflow -------------------------------------------------------------------------------------------------------------


class FakeStore:
    """The calls of MLflow's client that a tracker makes, kept by address."""

    stores: ClassVar[dict[str, FakeStore]] = {}

    def __init__(self):
        self.experiments, self.runs, self.metrics, self.params, self.figures = {}, {}, [], {}, []

    def get_experiment_by_name(self, name):
        found = self.experiments.get(name)
        return None if found is None else SimpleNamespace(experiment_id=found)

    def create_experiment(self, name, artifact_location):
        assert artifact_location is None or artifact_location.startswith("file:///")
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def search_runs(self, experiments, filter_string, max_results):
        key, _, value = filter_string.partition(" = ")
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=of))
            for of, run in self.runs.items()
            if run["tags"].get(key.removeprefix("tags.")) == value.strip("'")
        ]

    def create_run(self, experiment, run_name, tags):
        self.runs[f"r{len(self.runs)}"] = {"name": run_name, "tags": tags, "status": "RUNNING"}
        return SimpleNamespace(info=SimpleNamespace(run_id=f"r{len(self.runs) - 1}"))

    def update_run(self, run_id, status):
        self.runs[run_id]["status"] = status

    set_terminated = update_run

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(params) <= 100 and len(metrics) <= 1000
        self.metrics += metrics
        self.params.update(params)

    def log_figure(self, run_id, figure, path):
        self.figures.append(path)

    def get_metric_history(self, run_id, name):
        return [SimpleNamespace(step=step) for of, _, _, step in self.metrics if of == name]


@pytest.fixture
def mlflow(monkeypatch):
    FakeStore.stores = {}
    entities, tracking = ModuleType("mlflow.entities"), ModuleType("mlflow.tracking")
    entities.Metric, entities.Param = lambda *of: of, lambda *of: of
    tracking.MlflowClient = lambda address: FakeStore.stores.setdefault(address, FakeStore())
    for module in (ModuleType("mlflow"), entities, tracking):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(known, "find_spec", lambda name: object())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return FakeStore.stores


def test_mlflow_has_a_run_for_each_run_and_every_step_once(tmp_path, mlflow):
    (tracker,) = opened(tmp_path, "mlflow")
    tracker.log_metrics(values(1, **{"HeldOut/captions R@1": 0.5}))
    tracker.log_metrics(values(2, Train__loss=0.5, broken=float("nan"), picture=True))
    ((address, store),) = mlflow.items()
    assert address == f"sqlite:///{tmp_path.resolve()}/mlflow/mlflow.db" and store.metrics == []
    tracker.flush()  # as before a checkpoint
    assert [(name, value, step) for name, value, _, step in store.metrics] == [
        ("HeldOut/captions R_1", 0.5, 1),
        ("Train/loss", 0.5, 2),
    ]
    (again,) = opened(tmp_path, "mlflow", goes_on=True)
    for step in (2, 3):
        again.log_metrics(values(step, Train__loss=1 / step))
    again.close(True)
    assert [step for name, _, _, step in store.metrics if name == "Train/loss"] == [2, 3]
    known = json.loads((tmp_path / "mlflow/run.json").read_text())["log"]
    tags = {**TAGS, "run": "ab12", "log": known}
    assert store.runs == {"r0": {"name": "lora, seed 3", "tags": tags, "status": "FINISHED"}}
    assert store.figures == ["Confusions/test/000002.png"] and store.params["train.lr"] == "0.1"
    assert store.params["odd_name"] == "1"
    (other,) = opened(tmp_path, "mlflow", run="other")
    other.close(False)
    assert store.runs["r1"]["status"] == "KILLED" and list(store.experiments) == ["picturebook-mtil"]


def test_mlflow_logs_to_the_server_that_is_named(tmp_path, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    opened(tmp_path, "mlflow")
    assert list(mlflow) == ["http://127.0.0.1:9"]


def test_a_database_lies_where_it_is_asked_for_whatever_letters_its_path_has():
    engine = pytest.importorskip("sqlalchemy.engine")
    for path in ("/a?b/50%/x%41.db", "/a/b.db"):
        assert engine.make_url(address_of(Path(path))).database == path


@pytest.mark.slow
def test_the_real_mlflow_logs_to_a_database(tmp_path, monkeypatch):
    tmp_path = tmp_path / "a?b 50%41"
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    for steps in ((1, 2), (2, 3)):
        (tracker,) = opened(tmp_path, "mlflow", goes_on=steps[0] > 1)
        for step in steps:
            tracker.log_metrics(values(step, Train__loss=1 / step, picture=True))
        tracker.flush()
        assert not tracker.failed
    tracker.close(True)
    assert (tmp_path / "mlflow/mlflow.db").stat().st_size > 1000
    client = MlflowClient(address_of(tmp_path / "mlflow/mlflow.db"))
    (run,) = client.search_runs([client.get_experiment_by_name("picturebook-mtil").experiment_id])
    assert (
        run.info.status == "FINISHED" and run.info.run_name == "lora, seed 3" and TAGS.items() <= run.data.tags.items()
    )
    assert [of.step for of in client.get_metric_history(run.info.run_id, "Train/loss")] == [1, 2, 3]
    assert len(list((tmp_path / "mlflow/artifacts").rglob("*.png"))) == 3
