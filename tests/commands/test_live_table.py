"""While a comparison runs on a terminal, a table of what is finished grows; pipes and ``--quiet`` stay as they are."""

from __future__ import annotations

import io

import page_files as files
import pytest
from rich.console import Console

from avalanche_vlm.commands import progress
from avalanche_vlm.commands.live_table import TableAndBars


class Terminal(io.StringIO):
    """Something that is written to and says that someone watches."""

    def __init__(self, watched: bool = True) -> None:
        super().__init__()
        self.watched = watched

    def isatty(self) -> bool:
        return self.watched


def frame(bars: TableAndBars) -> str:
    """What stands on the terminal now."""
    console = Console(file=io.StringIO(), width=160, height=bars.console.height)
    console.print(bars.get_renderable())
    return console.file.getvalue()


def test_the_table_grows_and_bars_of_what_is_done_go():
    console = Console(file=io.StringIO(), width=160, height=40, force_terminal=True)
    bars = TableAndBars("{task.description} {task.fields[left]}", console=console, auto_refresh=False)
    shown = progress.Progress(bars, quiet=False)
    shown.whole(3)
    done = []
    for recipe in ("lora", "zero-shot"):
        with shown.task(f"{recipe}, seed 0", 2) as advance:
            assert f"{recipe}, seed 0" in frame(bars)
            if recipe != "zero-shot":  # which trains nothing, so that its bar never moves
                advance(1, 2, 2)
        done.append(files.entry(recipe))
        shown.scored(done)
        now = frame(bars)
        assert f"{recipe}, seed 0" not in now and "all runs" in now and "Last" in now
        assert f"{done[-1]['result']['metrics']['last']:.1f}" in now
    with shown.task("zscl, seed 0", 2) as advance:
        advance(0, 1, 2)
        now = frame(bars)
    rows = [line.split("│")[1].strip() for line in now.splitlines() if line.startswith("│")]
    assert rows == ["lora", "zero-shot"] and "zscl, seed 0" in now


def test_a_low_terminal_keeps_its_bars():
    console = Console(file=io.StringIO(), width=160, height=14, force_terminal=True)
    bars = TableAndBars("{task.description}", console=console, auto_refresh=False)
    shown = progress.Progress(bars, quiet=False)
    shown.whole(9)
    shown.scored([files.entry(f"recipe-{n}") for n in range(9)])
    now = frame(bars)
    assert "and 4 more" in now and "all runs" in now and len(now.splitlines()) <= 14


def test_what_shares_no_table_is_said_elsewhere():
    bars = TableAndBars("{task.description}", console=Console(file=io.StringIO()), auto_refresh=False)
    progress.Progress(bars, quiet=False).scored([files.entry("lora"), files.entry("lora", label_space="union")])
    assert bars.table is None


@pytest.mark.parametrize(("watched", "quiet"), [(False, False), (True, True), (True, False)])
def test_pipes_and_quiet_stay_clean_and_the_table_gives_way_to_the_whole_one(monkeypatch, watched, quiet):
    err = Terminal(watched)
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with progress.progress(quiet) as shown:
        shown.whole(2)
        with shown.task("lora, seed 0", 2) as advance:
            if advance is not None:
                advance(1, 2, 2)
        shown.scored([files.entry("lora")])
    written = err.getvalue()
    assert ("Last" in written) == (watched and not quiet)
    if not (watched and not quiet):
        assert written == ""
    else:
        assert "Last" not in written.rpartition("all runs")[0].rpartition("\x1b[2K")[2]
