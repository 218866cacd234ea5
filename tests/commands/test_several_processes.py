"""``run`` in several processes: one of them prints and writes, and when one is gone the rest end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launched import Launch, wait_for
from torch import nn

from avalanche_vlm import cli
from avalanche_vlm.artifacts import load
from avalanche_vlm.commands import launcher, prepare
from avalanche_vlm.commands.arguments.parser import parse
from avalanche_vlm.errors import VLMWarning

CLI = "avalanche_vlm.cli"
STREAM = (
    *("--n-train", "24", "--n-test", "8", "--n-held-out", "9", "--n-reference", "11"),
    *("--epochs", "2", "--batch-size", "7", "--order", "sketches,night"),
)


def asked(out: Path, recipe: str = "zscl", *more: str) -> list[str]:
    return ["run", "--recipe", recipe, *STREAM, "--threads", "1", "--no-save", *more, "--out", str(out)]


def result(folder: Path) -> dict:
    found = json.loads((folder / "result.json").read_text())
    return {key: found[key] for key in ("matrix", "held_out", "metrics", "costs")}


def test_other_commands_are_refused_in_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["list", "recipes"]) == 2
    assert "list was started in 2 processes, and only run trains in several" in capsys.readouterr().err


def test_what_all_would_say_is_said_by_the_first(monkeypatch, capsys):
    monkeypatch.setattr(launcher, "FIRST_SPEAKS", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, heard in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            cli.main(["run", "--epochs", "none of these"])
        assert bool(capsys.readouterr().err) == heard


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_is_killed_with_one_of_its_processes_and_goes_on_with_another_number(tmp_path):
    folder = tmp_path / "out"
    broken = Launch(tmp_path / "broken", 2, CLI, *asked(folder, "zscl", "--checkpoint-minutes", "0"))
    wait_for(folder / "checkpoint" / "objects", broken)
    broken.kill(1)
    first, second = broken.ended()
    assert second.code == -9
    assert first.code == 1
    (sentence,) = [line for line in first.errors.splitlines() if line.startswith("avalanche-vlm: ")]
    assert "another process of this training has ended or does not answer" in sentence
    assert "Traceback" not in first.errors
    assert not (folder / "result.json").exists()

    with pytest.warns(VLMWarning, match="number of processes that train together 2, and now 1"):
        assert cli.main(asked(folder, "zscl", "--checkpoint-minutes", "0")) == 0
    assert cli.main(asked(tmp_path / "whole-out")) == 0
    assert result(folder) == result(tmp_path / "whole-out")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signal_ends_a_run_behind_its_iteration_and_three_processes_go_on(tmp_path):
    folder = tmp_path / "out"
    more = ("--checkpoint-minutes", "0")
    stopped = Launch(tmp_path / "stopped", 2, CLI, *asked(folder, "lora", *more, "--quiet"))
    wait_for(folder / "checkpoint" / "objects", stopped)
    for rank in (1, 0):
        stopped.kill(rank, 15)  # as the launcher signals all of them
    first, second = stopped.ended()
    assert first.code == 143
    assert "stopped by SIGTERM" in first.errors
    assert second.code == 1
    assert second.errors == ""
    first, *others = Launch(tmp_path / "three", 3, CLI, *asked(folder, "lora", *more)).ended()
    assert [one.code for one in (first, *others)] == [0, 0, 0], (first, others)
    assert "written to" in first.out
    assert not any(other.out or other.errors for other in others)
    assert cli.main(asked(tmp_path / "alone-out", "lora", *more)) == 0
    assert result(folder) == result(tmp_path / "alone-out")


def test_shard_is_refused_in_one_process_before_anything_is_made(tmp_path, capsys):
    assert cli.main(asked(tmp_path / "out", "fine-tune", "--shard")) == 2
    assert "--shard spreads the towers over several processes: start them with torchrun" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_to_be_in_parts_is_made_on_no_device(tmp_path):
    request = parse(asked(tmp_path / "out", "fine-tune", "--device", "cpu"))[1]
    wanted = prepare.experiment(request, request.recipe, request.seed).model_copy(update={"device": "cuda:0"})
    model, _ = prepare.opened(wanted, shard=True)
    assert model.device.type == "cpu"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_in_parts_is_stopped_goes_on_in_one_process_and_saves_a_whole_model(tmp_path):
    folder, more = tmp_path / "out", ("--checkpoint-minutes", "0")
    stopped = Launch(tmp_path / "stopped", 2, CLI, *asked(folder, "lora", *more, "--shard"))
    wait_for(folder / "checkpoint" / "objects", stopped)
    for rank in (1, 0):
        stopped.kill(rank, 15)
    first, second = stopped.ended()
    assert first.code == 143, first.errors
    assert "stopped by SIGTERM" in first.errors
    assert (second.code, second.errors) == (1, "")
    with pytest.warns(VLMWarning, match="sharding of the towers True, and now False"):
        assert cli.main(asked(folder, "lora", *more)) == 0
    words = [word for word in asked(tmp_path / "parts", "lora", "--shard") if word != "--no-save"]
    first, second = Launch(tmp_path / "run", 2, CLI, *words).ended()
    assert (first.code, second.code) == (0, 0), (first.errors, second.errors)
    assert (second.out, second.errors) == ("", "")
    assert result(folder) == result(tmp_path / "parts")
    assert type(next(load(tmp_path / "parts").parameters())) is nn.Parameter
    assert "shard" not in json.dumps(json.loads((tmp_path / "parts" / "result.json").read_text())["protocol"])
