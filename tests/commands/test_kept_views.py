"""What a run keeps for its report: by default, as much as is asked for, or no sample at all."""

from __future__ import annotations

import json

import pytest
from small_runs import SIZES, SMALL, read, run

from avalanche_vlm import cli
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.evaluation.views.watching import Views


def test_a_run_keeps_pictures_unless_it_must_not(tmp_path):
    words = ["run", "--recipe", "fine-tune", "--no-save", "--epochs", "4"]
    for name, more in (("two", ["--keep-examples", "2"]), ("none", ["--no-raw-data"])):
        assert run(*words, "--out", str(tmp_path / name), *more) == 0
    two, none = (read(tmp_path / name / "views.json") for name in ("two", "none"))
    assert len(two["examples"]) == 2 and none["examples"] == []
    assert {**none, **dict.fromkeys(("examples", "sha256"))} == {**two, **dict.fromkeys(("examples", "sha256"))}
    assert none["run"] == read(tmp_path / "none/result.json")["run"]
    assert (tmp_path / "two/result.json").read_bytes() == (tmp_path / "none/result.json").read_bytes()
    kinds = [e["kind"] for e in two["examples"]]
    assert run(*words, "--out", str(tmp_path / "two"), "--keep-examples", "1") == 0  # finished before, and fewer now
    assert [e["kind"] for e in read(tmp_path / "two/views.json")["examples"]] == kinds[:1]
    assert run(*words, "--out", str(tmp_path / "two"), "--no-raw-data") == 0
    assert (tmp_path / "two/views.json").read_bytes() == (tmp_path / "none/views.json").read_bytes()
    assert cli.main(["report", str(tmp_path / "none")]) == 0
    found = json.loads((tmp_path / "none/report.json").read_text())
    assert set(found["missing"]) == {"exposures", "attribution", "modules", "pareto", "plan"}


def test_no_fault_of_what_is_watched_loses_a_finished_result(tmp_path, capsys, monkeypatch):
    def fails(views):
        raise ValueError("no place is finite")

    monkeypatch.setattr(Views, "as_json", fails)
    words = ["run", "--recipe", "zero-shot", "--no-save", "--out", str(tmp_path), "--order", "sketches,night"]
    assert cli.main([*words, *SIZES.split()]) == 0
    assert read(tmp_path / "result.json")["matrix"] and (tmp_path / "matrix.png").exists()
    said = f"{tmp_path / 'views.json'} could not be written, and all results are there: no place is finite"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "compare"])
def test_how_many_are_kept_is_asked_for_and_none_is_none(command, capsys):
    asked = parse([command, "--out", "x", "--keep-examples", "0"])[1]
    assert asked.saving.examples == 0
    with pytest.raises(SystemExit):
        cli.main([command, "--out", "x", "--keep-examples", "201", *SMALL])
    assert "'201' is above 200: a report is a page to read" in capsys.readouterr().err


def test_what_contradicts_itself_is_told(tmp_path, capsys):
    assert cli.main(["run", "--out", str(tmp_path / "x"), "--no-raw-data", "--keep-examples", "3"]) == 2
    assert "--keep-examples 3 keeps raw data, and --no-raw-data none" in capsys.readouterr().err
