"""Whoever watches a command sees how far the check of images is; options say how they are checked."""

from __future__ import annotations

import os

from PIL import Image
from rich.progress import Progress as Bars

from avalanche_vlm.benchmarks.sources.telling import listener
from avalanche_vlm.commands import progress
from avalanche_vlm.commands.arguments.parser import parse


def test_a_bar_stands_for_a_check_for_as_long_as_it_lasts(monkeypatch):
    bars = Bars(disable=True)
    tell = progress._of_checks(bars)
    tell(1, 3)
    (bar,) = bars.tasks
    assert (bar.completed, bar.total, bar.fields) == (1, 3, {"unit": "image", "places": 0, "left": ""})
    monkeypatch.setattr(os, "getpid", lambda: -1)
    tell(2, 3)  # in a process that was forked
    assert bar.completed == 1
    monkeypatch.undo()
    tell(3, 3)
    assert not bars.tasks
    tell(1, 5)  # another data set
    assert [task.total for task in bars.tasks] == [5]


def test_checks_are_told_unless_it_should_be_quiet(monkeypatch):
    for terminal, quiet in ((False, False), (True, True), (True, False), (False, True)):
        monkeypatch.setattr("sys.stderr.isatty", lambda shown=terminal: shown, raising=False)
        with progress.progress(quiet):
            assert (listener() is not None) == (not quiet)
        assert listener() is None


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with progress.progress(False) as shown, shown.task("lora", 4) as lora, shown.task("zscl\x1b", 4) as zscl:
        for clock[0] in (1000.0, 1059.0):
            lora(1, 1, 2)
        zscl(0, 1, 4)
        assert capsys.readouterr().err == ""
        for clock[0] in (1060.0, 1061.0, 1119.0):
            lora(1, 2, 2)
        assert capsys.readouterr().err == "lora: 2.0 of 4 tasks; zscl\\x1b: 0.2 of 4 tasks\n"
        clock[0] = 1121.0
        lora(2, 1, 2)
        assert capsys.readouterr().err.startswith("lora: 2.5 of 4 tasks; ")
        clock[0] = 1200.0
        listener()(7, 9)
        assert capsys.readouterr().err == "checking images: 7 of 9\n"
    with progress.counting(False, "images") as add:
        add(3)
        clock[0] = 1300.0
        add(4)
        assert capsys.readouterr().err == "images so far: 7\n"
    with progress.progress(True) as shown, shown.task("lora", 4) as lora, progress.counting(True, "images") as add:
        clock[0] = 9999.0
        assert lora is None and listener() is None
        add(1)
    assert capsys.readouterr().err == ""


def test_how_images_are_checked_reaches_the_data_and_their_reference(tmp_path):
    from avalanche_vlm.commands import prepare
    from avalanche_vlm.commands.requests import Experiment
    from avalanche_vlm.commands.requests.parts import ModelRequest
    from avalanche_vlm.models import create_vlm
    from avalanche_vlm.training.settings import TrainSettings

    rows = ["image,caption"]
    for i in range(6):
        Image.effect_noise((60, 60), 90).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,picture {i}")
    content = bytearray((tmp_path / "3.png").read_bytes())
    content[200:900] = bytes(700)  # between header and end
    (tmp_path / "3.png").write_bytes(content)
    table = tmp_path / "t.csv"
    table.write_text("\n".join(rows))
    given = ["run", "--data", str(table), "--reference", str(table), "--out", "x", "--on-error", "skip"]
    for check, left_out in (("none", 0), ("fast", 0), ("full", 2)):
        asked = Experiment(
            recipe="fine-tune",
            recipe_options={},
            seed=0,
            stream=parse([*given, "--check", check, "--check-workers", "0"])[1].stream,
            model=ModelRequest(),
            device="cpu",
            train=TrainSettings(),
            versions={},
        )
        assert len(prepare.stream_for(asked, create_vlm("tiny")).data.skipped) == left_out
