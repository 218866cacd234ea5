"""A run that meets corrupt images goes on past them, to the same end whoever loads them and wherever it was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mini import mini
from real_files import picture, save, truncate

from avalanche_vlm.benchmarks.aside import open_aside
from avalanche_vlm.benchmarks.sources.aside import AsideReading
from avalanche_vlm.benchmarks.sources.problems import Problems
from avalanche_vlm.benchmarks.sources.registry import read_stream
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.left_out import images_passed_over
from avalanche_vlm.evaluation.results import KeptResult
from avalanche_vlm.storage.documents import Document
from avalanche_vlm.studies.experiment import run_experiment
from avalanche_vlm.training import CheckpointPlugin
from avalanche_vlm.training.settings import TrainSettings

pytestmark = pytest.mark.usefixtures("narrow_tiny")

CORRUPT = ("first/train/red/1.png", "first/train/red/2.png", "first/test/blue/0.png", "second/train/blue/3.png")
"""Files of the classes, which training and evaluation meet."""
HELD_OUT = "0.png"


class Killed(BaseException):
    """Nobody catches it but the test."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for t, task in enumerate(("first", "second")):
        for part, number in (("train", 8), ("test", 3)):
            for c, name in enumerate(("red", "blue")):
                for i in range(number):
                    save(root / "classes" / task / part / name / f"{i}.png", picture(100 * t + 10 * c + i, 32, 32))
    for part, number in (("pairs", 8), ("aside", 4)):
        rows = ["image,caption,split"]
        for i in range(number):
            save(root / part / f"{i}.png", picture(i, 32, 32))
            rows.append(f"{i}.png,a picture number {i},{'train' if i < 5 and part == 'pairs' else 'test'}")
        (root / part / "pairs.csv").write_text("\n".join(rows))
    for bad in CORRUPT:
        truncate(root / "classes" / bad)
    for bad in ("pairs/1.png", "pairs/4.png", "pairs/6.png", f"aside/{HELD_OUT}"):
        truncate(root / bad)
    return root


def run(
    data: Path, kind: str = "classes", folder: Path | None = None, kill: tuple[int, int] | None = None, **given: Any
) -> dict[str, Any] | None:
    """The result of a run that nobody has checked the images for; None if it is killed when so many iterations of an
    experience are over."""
    model = mini()
    on_error = given.pop("on_error", "skip")
    checks = {"check": "none", "check_workers": 0}
    benchmark = read_stream(data / ("classes" if kind == "classes" else "pairs/pairs.csv"), model=model,
                            on_error=on_error, **checks)  # fmt: skip
    reading = AsideReading(model, Problems(on_error, benchmark.data.passed_over), **checks)
    benchmark.held_out = tuple(open_aside([str(data / "aside" / "pairs.csv")], None, reading))

    if met := given.pop("met", None):
        benchmark.data.passed_over.places = torch.tensor(met)

    def progress(experience: int, iteration: int, iterations: int) -> None:
        if kill == (experience, iteration):
            raise Killed

    settings = TrainSettings(**{"lr": 1e-3, "epochs": 2, "batch_size": 4, **given})
    checkpoint = None if folder is None else CheckpointPlugin(folder, 0)
    try:
        outcome = run_experiment(
            benchmark, "fine-tune", model=model, settings=settings, progress=progress, checkpoint=checkpoint
        )
    except Killed:
        return None
    return dict(outcome.result)


def names(result: dict[str, Any]) -> list[str]:
    return ["/".join(said.partition(" ")[0].rsplit("/", 4)[1:]) for said in result["data"]["passed_over"]["files"]]


@pytest.fixture(scope="module")
def whole(data) -> dict[str, Any]:
    found = run(data)
    assert found is not None
    return found


def test_a_run_names_and_counts_all_that_it_has_met(data, whole):
    met = whole["data"]["passed_over"]
    assert met["count"] == len(CORRUPT) + 1
    wanted = [data / "classes" / bad for bad in CORRUPT] + [data / "aside" / HELD_OUT]
    assert sorted(met["files"]) == sorted(
        next(said for said in met["files"] if said.startswith(f"{path} cannot be decoded: ")) for path in wanted
    )
    assert None not in whole["matrix"][0] and all(None not in values for values in whole["held_out"].values())


def test_without_being_asked_for_it_a_run_stops_and_names_the_file(data):
    with pytest.raises(InputError, match=r"first/test/blue/0\.png cannot be decoded"):
        run(data, on_error="raise")


def test_processes_that_load_change_nothing(data, whole):
    found = run(data, num_workers=2)
    assert found is not None and found["protocol"]["train"].pop("num_workers") == 2
    alone = json.loads(json.dumps(whole))
    alone["protocol"]["train"].pop("num_workers")
    assert json.dumps(found) == json.dumps(alone)


def test_what_another_run_on_the_benchmark_has_met_is_not_told_of_this_one(data, whole):
    assert run(data, met=[0, 1]) == whole


@pytest.mark.parametrize(
    ("kill", "workers"),
    [((0, 3), 0), *(pytest.param(*of, marks=pytest.mark.slow) for of in (((1, 2), 0), ((0, 6), 2)))],
)
def test_a_killed_run_says_what_was_met_before(data, whole, tmp_path, kill, workers):
    assert run(data, folder=tmp_path, kill=kill, num_workers=workers) is None
    found = run(data, folder=tmp_path, num_workers=workers)
    assert found is not None
    found["protocol"]["train"]["num_workers"] = 0
    assert json.dumps(found) == json.dumps(whole)


def test_what_was_met_once_only_is_known_after_a_kill(data, tmp_path):
    # Without an evaluation of what is trained, the first experience's images are met before the kill and never again.
    assert run(data, folder=tmp_path, kill=(1, 1), epochs=1, eval_tasks="seen") is None
    found, other = run(data, folder=tmp_path, epochs=1, eval_tasks="seen"), run(data, epochs=1, eval_tasks="seen")
    assert found == other and found is not None and "first/train/red/2.png" in names(found)


def test_a_stream_of_pairs_goes_on_past_its_corrupt_images(data):
    found, again = run(data, "pairs"), run(data, "pairs", num_workers=2)
    assert found is not None and again is not None
    assert found["data"] == again["data"] and found["matrix"] == again["matrix"]
    assert [name.rpartition("/")[2] for name in names(found)] == ["1.png", "4.png", "6.png", HELD_OUT]


def test_a_result_with_and_one_without_are_read(whole, tmp_path):
    kind: Document[KeptResult] = Document("a result", KeptResult)
    for number, result in enumerate((whole, {**whole, "data": {"skipped": [], "notes": [], "cut": {}}})):
        kind.write(tmp_path / "result.json", {**result, "run": "0" * 16})
        assert ("passed_over" in kind.read(tmp_path / "result.json")["data"]) is (number == 0)


def test_the_remark_has_the_number(whole):
    none = {"data": {"skipped": [], "notes": [], "cut": {}}}
    assert images_passed_over([none]) == [] == images_passed_over([])
    several = "5 images{} could not be read, and others took their places: result.json names them (data.passed_over)."
    assert images_passed_over([whole, whole]) == [several.format("")]
    assert images_passed_over([none, whole]) == [several.format(" at most of a run")]
