"""``diagnose`` and ``advise`` that are interrupted go on where they were."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_runs import forge, read

from avalanche_vlm import cli
from avalanche_vlm.commands import advise as advising
from avalanche_vlm.commands import diagnose as diagnosing
from avalanche_vlm.commands.requests.experiment import LATER
from avalanche_vlm.studies import diagnosis, experiment
from avalanche_vlm.studies.advice import pilot as piloting
from avalanche_vlm.studies.advice.halving import OutOfTime

SIZES = "--n-train 32 --n-test 8 --n-held-out 8 --n-reference 16 --epochs 2 --batch-size 16 --order sketches,night"


class Killed(BaseException):
    """Nobody catches it but the test."""


def kill_in(monkeypatch, module: Any, experience: int, iteration: int) -> list[tuple[int, int]]:
    """Kill what a module runs when an iteration is over; gives the iterations that were."""
    real, seen = experiment.run_experiment, []

    def watched(*given: Any, progress: Any = None, **options: Any) -> Any:
        def advance(*place: int) -> None:
            seen.append(place[:2])
            if progress is not None:
                progress(*place)
            if place[:2] == (experience, iteration):
                raise Killed

        return real(*given, progress=advance, **options)

    monkeypatch.setattr(module, "run_experiment", watched)
    return seen


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    assert cli.main(["run", "--recipe", "lora", "--out", str(out), *SIZES.split(), "--quiet", "--no-save"]) == 0
    return out


@pytest.mark.slow
def test_a_diagnosis_goes_on_and_finds_the_same(finished, tmp_path, capsys, monkeypatch):
    whole, out = (shutil.copytree(finished, tmp_path / name) for name in ("whole", "out"))
    assert cli.main(["diagnose", str(whole), "--quiet"]) == 0
    asked = ["diagnose", str(out), "--checkpoint-minutes", "0"]
    for experience, iteration in ((0, 3), (1, 2)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_in(patch, diagnosis, experience, iteration)
            cli.main(asked)
    with monkeypatch.context() as patch, pytest.raises(Killed):  # when the first attribution is finished
        patch.setattr(diagnosis, "attribute", lambda *given, **options: (_ for _ in ()).throw(Killed))
        cli.main(asked)
    assert (out / diagnosing.CHECKPOINTS / "attributions/tasks.json").exists()
    assert len(list((out / diagnosing.CHECKPOINTS / "steps").glob("step-*.json"))) == 1
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(diagnosis, "attribute_tasks", lambda *given, **options: pytest.fail("it is there"))
        assert cli.main(asked) == 0
    captured = capsys.readouterr()
    assert "lora with probes: goes on from the end of experience 1 (checkpoint of " in captured.err
    assert "is not the one of" not in captured.out
    assert (out / "diagnosis.json").read_bytes() == (whole / "diagnosis.json").read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def facts(out: Path) -> dict[str, Any]:
    """What every pilot came to, apart from what a clock says."""
    found = {}
    for path in (out / "pilots").rglob("*.json"):
        pilot = read(path)["pilot"]
        ledger = {**pilot["ledger"], "train_seconds": 0, "peak_memory_bytes": 0}
        found[str(path.relative_to(out))] = {**pilot, "ledger": ledger, "seconds": 0}
    return found


@pytest.mark.slow
def test_a_pilot_goes_on_and_its_time_counts(tmp_path, capsys, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    words = [*SIZES.split(), "--recipes", "fine-tune,replay", "--minutes", "20", "--checkpoint-minutes", "0"]
    assert cli.main(["advise", "--out", str(whole), *words, "--quiet"]) == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_in(patch, piloting, 1, 3)
        cli.main(["advise", "--out", str(out), *words])
    assert not (out / "pilots").exists() and len(list((out / advising.UNFINISHED).iterdir())) == 1
    with monkeypatch.context() as patch, pytest.raises(Killed):
        seen = kill_in(patch, piloting, 0, 2)  # of the second pilot
        cli.main(["advise", "--out", str(out), *words])
    assert seen[:2] == [(1, 3), (1, 4)]
    capsys.readouterr()
    assert cli.main(["advise", "--out", str(out), *words]) == 0
    said = capsys.readouterr().err
    assert "fine-tune on 100%: finished before, kept" in said
    assert "replay on 100%: goes on from experience 0, epoch 0, iteration 1 (checkpoint of " in said
    assert facts(out) == facts(whole) and not (out / advising.UNFINISHED).exists()
    advice = read(out / "advice.json")
    took = [read(path)["pilot"]["seconds"] for path in (out / "pilots").rglob("*.json")]
    assert advice["minutes"]["used"] >= sum(took) / 60 - 0.01  # the first one's was taken in another process
    assert advice["rounds"][0]["recipes"][0]["last"] == read(whole / "advice.json")["rounds"][0]["recipes"][0]["last"]


@pytest.mark.slow
def test_a_pilot_that_was_broken_off_is_tried_again_with_more_time_alone(tmp_path, capsys, monkeypatch):
    words = ["--out", str(tmp_path), *SIZES.split(), "--recipes", "fine-tune,replay", "--minutes", "20"]
    real, tried = piloting.run_pilot, []

    def slow(benchmark: Any, recipe: str, *given: Any, **options: Any) -> Any:
        tried.append(recipe)
        if recipe == "replay":
            raise OutOfTime
        return real(benchmark, recipe, *given, **options)

    monkeypatch.setattr("avalanche_vlm.studies.advice.pilots.run_pilot", slow)
    for expected in (["fine-tune", "replay"], []):
        tried.clear()
        assert cli.main(["advise", *words]) == 0
        assert tried == expected
    assert "replay on 100%: broken off before, and there is no more time for it now" in capsys.readouterr().err
    (path,) = (tmp_path / "pilots/replay").glob("*.json")
    tried_before = read(path)["broken off"]
    forge(path, **{"broken off": {**tried_before, "allowed": tried_before["allowed"] / 2}})
    assert cli.main(["advise", *words]) == 0 and tried == ["replay"]


def as_of_before(path: Path, settings: bool, tokenizer: bool) -> Path:
    """The file of a pilot as earlier versions wrote it, under the name that they gave it: with the settings that came
    later, at their defaults, and with the tokenizer's facts, or without."""
    asked = read(path)["request"]
    for place in () if settings else LATER:
        del asked["train"][place.partition(".")[2]]
    if not tokenizer:
        del asked["conditions"]["tokenizer"]
    forge(path, request=asked)
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    return path.rename(path.with_name(f"{path.name.split('-')[0]}-{key}.json"))


@pytest.mark.slow
def test_a_pilot_that_an_earlier_version_kept_is_found_again(tmp_path, capsys, monkeypatch):
    words = ["advise", "--out", str(tmp_path), *SIZES.split(), "--recipes", "fine-tune", "--minutes", "20"]
    assert cli.main(words) == 0
    (path,) = (tmp_path / "pilots").rglob("*.json")
    written, ran = path.read_bytes(), "avalanche_vlm.studies.advice.pilots.run_pilot"
    for settings, tokenizer in ((False, False), (True, True), (True, False)):
        before = as_of_before(path, settings, tokenizer)
        assert before != path
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(ran, lambda *given, **options: pytest.fail("kept"))
            assert cli.main(words) == 0
        assert "fine-tune on 100%: finished before, kept" in capsys.readouterr().err
        assert list((tmp_path / "pilots").rglob("*.json")) == [before]
        before.unlink()
        path.write_bytes(written)
