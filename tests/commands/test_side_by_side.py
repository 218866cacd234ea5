"""``compare --jobs``: the same bytes, whatever comes to its end first, and whatever fails."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, read, run

from avalanche_vlm import _memory, _processors, cli
from avalanche_vlm.commands import side_by_side
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.commands.jobs import FAILURE
from avalanche_vlm.errors import InputError
from avalanche_vlm.studies import experiment, parallel
from avalanche_vlm.studies.parallel import Ending


def asked(words: str) -> Any:
    return parse(["compare", "--out", "x", *words.split()])[1]


def written(out: Path) -> dict[str, bytes]:
    """What runs leave that no clock decides."""
    names = ("result.json", "request.yaml", "summary.json")
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.name in names}


def table(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return [{key: row[key] for key in ("recipe", "seed", "last", "zsd")} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_two_at_once_write_the_bytes_of_one_after_another(tmp_path, capfd):
    words = ["compare", "--recipes", "replay,zero-shot", "--seeds", "1,0", *SMALL]
    alone = [*words, "--jobs", "1", "--out", str(tmp_path / "alone")]
    assert cli.main(alone) == 0  # with one thread, as the tests have it
    assert cli.main([*words, "--jobs", "2", "--threads", "2", "--out", str(tmp_path / "two")]) == 0
    torch.set_num_threads(1)
    del (one := written(tmp_path / "alone"))["summary.json"], (two := written(tmp_path / "two"))["summary.json"]
    assert one == two and len(one) == 8
    assert table(tmp_path / "alone") == table(tmp_path / "two")
    assert [(row["recipe"], row["seed"]) for row in table(tmp_path / "two")] == [
        *(("replay", "1"), ("replay", "0"), ("zero-shot", "1"), ("zero-shot", "0"))
    ]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_failure_of_any_kind_stops_no_other_and_leaves_its_traceback(tmp_path, capsys, monkeypatch):
    real = experiment.run_experiment

    def failing(benchmark, recipe, **options):
        if recipe == "zscl":
            assert False, "batch size is below the tasks\nthat are joined"  # noqa: B011
        if recipe == "lora":
            raise MemoryError
        return real(benchmark, recipe, **options)

    monkeypatch.setattr(experiment, "run_experiment", failing)
    words = ["compare", "--recipes", "zscl,lora,zero-shot", "--out", str(tmp_path)]
    assert run(*words) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "avalanche-vlm: zscl, seed 0: AssertionError: batch size is below the tasks",
        "avalanche-vlm: lora, seed 0: there is not enough memory for it",
        f"avalanche-vlm: where it was stands in {FAILURE} of each run's folder",
    ]
    noted = (tmp_path / "zscl/seed-0" / FAILURE).read_text()
    assert noted.startswith("zscl, seed 0: AssertionError: batch size") and "in failing" in noted
    assert [row["recipe"] for row in table(tmp_path)] == ["zero-shot"] and "zero-shot" in captured.out
    monkeypatch.undo()
    monkeypatch.setattr(_processors, "cores", lambda: 1)
    assert run(*words) == 0 and not list(tmp_path.rglob(FAILURE))
    assert [row["recipe"] for row in table(tmp_path)] == ["zscl", "lora", "zero-shot"]


class Engine:
    """Gives what it is told to, last things first, and keeps what it was asked for."""

    def __init__(self, jobs: int, threads: int) -> None:
        self.asked = jobs, threads
        MADE.append(self)

    def run(self, works, hear):
        self.names = [work.name for work in works]
        for index in reversed(range(len(works))):
            hear(index, ("begin", self.names[index], 2))
            hear(index, ("advance", 1, 1, 2))
            yield Ending(index, failure=parallel.Failure("its process was ended by SIGKILL", "…"))

    def request(self) -> None: ...


MADE: list[Engine] = []


def test_threads_are_divided_by_what_was_asked_for_and_not_by_what_is_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(side_by_side, "Processes", Engine)
    monkeypatch.setattr(side_by_side, "prepare_workers", lambda modules: None)
    monkeypatch.setattr(_processors, "cores", lambda: 8)
    words = ["compare", "--recipes", "zero-shot,simplecil", "--seeds", "0", "--out", str(tmp_path), *SMALL]
    before = torch.get_num_threads()
    try:
        assert cli.main(words) == 1
        assert MADE[-1].asked == (2, 4) and MADE[-1].names == ["zero-shot, seed 0", "simplecil, seed 0"]
        assert cli.main([*words, "--jobs", "5", "--threads", "6"]) == 1 and MADE[-1].asked == (2, 3)
        torch.set_num_threads(before)
        assert "simplecil, seed 0; zero-shot, seed 0: its process was ended by SIGKILL" in capsys.readouterr().err
        assert run("compare", "--jobs", "1", "--recipes", "zero-shot", "--out", str(tmp_path)) == 0
        assert cli.main([*words, "--jobs", "2", "--threads", "6"]) == 1
        assert MADE[-1].asked == (1, 3) and MADE[-1].names == ["simplecil, seed 0"]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("words", "many"),
    [
        ("", 2),
        ("--jobs 3", 3),
        ("--jobs 9", 4),
        ("--threads 1", 1),
        ("--model no-such-architecture", 1),
        ("--model ViT-B-16", 2),
        ("--model ViT-L-14", 1),
        ("--model ViT-L-14 --jobs 2", 2),
    ],
)
def test_how_many_at_once(monkeypatch, words, many):
    monkeypatch.setattr(_processors, "cores", lambda: 2)
    monkeypatch.setattr(side_by_side, "memory", lambda: 24 * 2**30)
    request = asked(f"--device cpu {words}")
    assert side_by_side.planned(request, request.recipes, "cpu") == many
    assert side_by_side.threads_each(request, many) == max(1, (request.threads or 2) // many)


def test_more_at_once_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(_memory, "memory", lambda: 2 * 2**30)
    request = asked("--recipes lora,zscl,replay --jobs 9")
    with pytest.raises(InputError, match=r"--jobs 9: 3 trainings at once would take 3.0 GiB of memory or more"):
        side_by_side.planned(request, request.recipes, "cpu")


def test_on_cuda_one_at_a_time_unless_asked(monkeypatch):
    monkeypatch.setattr(_processors, "cores", lambda: 8)
    for words, many in (("", 1), ("--jobs 2", 2)):
        request = asked(f"--recipes lora,zscl {words}")
        assert side_by_side.planned(request, request.recipes, "cuda") == many


@pytest.mark.slow
def test_a_signal_ends_all_with_checkpoints_and_the_same_command_goes_on(tmp_path, capsys):
    """The command and its workers are processes of their own here, as a terminal has them."""
    sizes = "--n-train 32 --n-test 8 --n-held-out 8 --n-reference 16 --batch-size 16 --order sketches,night"
    words = f"compare --recipes fine-tune,wise-ft --jobs 2 --threads 2 --out {tmp_path} {sizes} --epochs".split()
    begin = [sys.executable, "-m", "avalanche_vlm", *words, "10"]
    process = subprocess.Popen(begin, stderr=subprocess.PIPE, text=True, start_new_session=True)
    limit = time.monotonic() + 600
    folders = [tmp_path / recipe / "seed-0/checkpoint" for recipe in ("fine-tune", "wise-ft")]
    while time.monotonic() < limit and not all(list(folder.glob("0000-*.json")) for folder in folders):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does it
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and "stopped by SIGINT" in err and "Traceback" not in err
    within = [path for folder in folders for path in folder.glob("*-within-*.json")]
    assert {path.parents[2].name for path in within} == {"fine-tune", "wise-ft"}
    alone = ["10", "--jobs", "1", "--threads", "1"]  # each of two had one thread as well
    assert cli.main([*words, *alone]) == 0
    said = capsys.readouterr().err
    for recipe in ("fine-tune", "wise-ft"):
        assert re.search(f"{recipe}, seed 0: goes on from experience [01], epoch ", said)
    whole = tmp_path / "whole"
    cli.main([*(word.replace(str(tmp_path), str(whole)) for word in words), *alone])
    for recipe in ("fine-tune", "wise-ft"):
        place = f"{recipe}/seed-0/result.json"
        assert read(whole / place) == read(tmp_path / place)
