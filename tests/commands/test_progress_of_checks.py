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
    assert (bar.completed, bar.total, bar.fields) == (1, 3, {"unit": "image", "places": 0})
    monkeypatch.setattr(os, "getpid", lambda: -1)
    tell(2, 3)  # in a process that was forked
    assert bar.completed == 1
    monkeypatch.undo()
    tell(3, 3)
    assert not bars.tasks
    tell(1, 5)  # another data set
    assert [task.total for task in bars.tasks] == [5]


def test_checks_are_told_where_there_are_bars_alone(monkeypatch):
    for terminal, quiet in ((False, False), (True, True), (True, False)):
        monkeypatch.setattr("sys.stderr.isatty", lambda shown=terminal: shown, raising=False)
        with progress.progress(quiet):
            assert (listener() is not None) == (terminal and not quiet)
        assert listener() is None


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
