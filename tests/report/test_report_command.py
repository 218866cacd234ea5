"""``avalanche-vlm report`` on folders as the other commands leave them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import page_files as files
import pytest
from small_runs import forge

from avalanche_vlm import cli
from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.requests import Experiment, RunRequest, StreamRequest
from avalanche_vlm.evaluation.results import RESULT, TIMING, metrics_of
from avalanche_vlm.storage.documents import Document
from avalanche_vlm.studies.advice.advised import ADVICE
from avalanche_vlm.studies.diagnosed import DIAGNOSIS

WRITTEN = ("report.html", "report.md", "report.json")


def report(folder: Path) -> dict:
    assert cli.main(["report", str(folder)]) == 0
    return json.loads((folder / "report.json").read_text())


RUN = "0123456789abcdef"


def save(folder: Path, entry: dict) -> None:
    result = entry["result"] | {"metrics": metrics_of(entry["result"]["matrix"])}
    RESULT.write(folder / "result.json", {"run": RUN, **result})
    TIMING.write(folder / "timing.json", {"run": RUN, **entry["timing"]})


@pytest.mark.slow
def test_a_real_run_is_reported(tmp_path, capsys):
    small = "--n-train 64 --n-test 20 --n-held-out 40 --n-reference 40 --epochs 1 --order sketches,night --quiet"
    assert cli.main(["run", "--recipe", "lora", "--out", str(tmp_path), *small.split()]) == 0
    found = report(tmp_path)
    assert "lora ends at" in capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    assert found["groups"][0]["recipes"][0]["matrix"] == result["matrix"]
    assert found["groups"][0]["tasks"] == ["sketches", "night"]
    assert set(found["missing"]) == {"exposures", "attribution", "modules", "pareto", "plan"}  # it has watched itself
    assert found["ledgers"][0]["recipes"] == ["lora"]
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>") and f"{result['metrics']['last']:.1f}" in page
    before = [(tmp_path / name).read_bytes() for name in WRITTEN]
    report(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in WRITTEN] == before


def test_a_comparison_with_a_diagnosis_of_one_of_its_runs_and_an_advice(tmp_path):
    for entry in files.entries():
        protocol = entry["result"]["protocol"]
        save(tmp_path / protocol["recipe"] / f"seed-{protocol['seed']}", entry)
    DIAGNOSIS.write(tmp_path / "fine-tune/seed-0/diagnosis.json", {"run": RUN, **files.diagnosis()})
    ADVICE.write(tmp_path / "advice.json", files.advice())
    found = report(tmp_path)
    assert set(found["missing"]) == {"changes", "map", "timeline"} and len(found["groups"][0]["recipes"]) == 4
    assert found["attribution"][0]["verdict"]["module"] == "image.1"
    DIAGNOSIS.write(tmp_path / "lora/seed-0/diagnosis.json", {"run": RUN, **files.diagnosis()})
    assert "attribution" in report(tmp_path)["missing"]  # which of the two is not for the report to say


def test_runs_in_folders_side_by_side_have_a_table_per_protocol(tmp_path):
    for visible in ("task", "union"):
        entry = copy.deepcopy(files.entries()[0])
        entry["result"]["protocol"]["label_space"] = visible
        save(tmp_path / f"run-{visible}", entry)
    groups = report(tmp_path)["groups"]
    assert [group["differs"] for group in groups] == [
        [{"name": "label_space", "value": visible}] for visible in ("task", "union")
    ]


def test_a_name_of_several_lines_is_shown_in_one(tmp_path):
    entry = copy.deepcopy(files.entries()[0])
    entry["result"]["tasks"][0] = "two\nlines"
    entry["result"]["chance"] = [{"classes": 1, "samples": 9, "level": 100.0} for _ in entry["result"]["tasks"]]
    save(tmp_path, entry)
    group = report(tmp_path)["groups"][0]
    assert group["tasks"][0] == "two lines" and group["remarks"][0].startswith("One class alone competes on two lines,")


def unfinished(folder: Path, trained: int, rows: list, **asked) -> Experiment:
    """A run that is going on."""
    found = prepare.experiment(RunRequest(out=folder, **asked), "lora", 0)
    store.write_request(folder, found)
    store.write_partial(folder, found, trained, rows)
    return found


def test_how_far_a_run_is_that_evaluates_nothing_but_its_end(tmp_path, capsys):
    unfinished(tmp_path, 2, [[10.0, 20.0, 30.0], [None] * 3, [None] * 3])
    report(tmp_path)
    assert capsys.readouterr().out.startswith("lora, seed 0 is not finished: 2 of 3 tasks trained.\n")
    unfinished(tmp_path, 2, [[10.0, 20.0, 30.0], [None] * 3, [80.0, 60.0, None]])
    report(tmp_path)
    assert "2 of 3 tasks trained, and a mean score of 70.0 % on them." in capsys.readouterr().out


def test_a_run_that_goes_on_with_data_that_were_moved_is_the_same(tmp_path, capsys):
    runs = {}
    for data in ("/a/mine", "/b/mine", None):
        stream = StreamRequest(benchmark=None, data=data) if data else StreamRequest()
        runs[data] = unfinished(tmp_path, 1, [[10.0, 20.0], [30.0, None]], stream=stream).run_id
    assert runs["/a/mine"] == runs["/b/mine"] != runs[None]
    store.write_request(tmp_path, prepare.experiment(RunRequest(out=tmp_path), "fine-tune", 0))
    assert cli.main(["report", str(tmp_path)]) == 2 and "partial.json is of another run" in capsys.readouterr().err


@pytest.mark.parametrize("when", ["before it was read", "after it was read"])
def test_a_run_that_ends_while_a_report_is_made_is_passed_over_or_told_once(tmp_path, monkeypatch, capsys, when):
    going = tmp_path / "lora/seed-0"
    unfinished(going, 1, [[10.0, 20.0], [30.0, None]])
    save(tmp_path / "fine-tune/seed-0", files.entry())

    def ends(document: Document, path: Path, read=Document.read):
        if path.name != "partial.json":
            return read(document, path)
        found = read(document, path)
        (going / "request.yaml").unlink()  # of the run by hand, which is another
        save(going, files.entry("lora"))
        path.unlink()
        return found if when == "after it was read" else read(document, path)

    monkeypatch.setattr(Document, "read", ends)
    assert len(report(tmp_path)["groups"][0]["recipes"]) == 2
    assert "is not finished" not in capsys.readouterr().out


def damage(folder: Path, what: str) -> None:
    save(folder, files.entry())
    if what == "cut":
        (folder / "result.json").write_text('{"protocol": {')
    elif what == "list":
        (folder / "advice.json").write_text("[1, 2]")
    elif what == "matrix":
        forge(folder / "result.json", matrix=files.entry()["result"]["matrix"][1:])
    elif what == "edited":
        text = (folder / "result.json").read_text()
        (folder / "result.json").write_text(text.replace('"last": 5', '"last": 9'))
    elif what == "other run":
        forge(folder / "timing.json", run="0" * 16)
    elif what == "other diagnosis":
        DIAGNOSIS.write(folder / "diagnosis.json", {"run": "0" * 16, **files.diagnosis()})
    elif what == "unwritable":
        (folder / "report.md").mkdir()
    elif what == "empty":
        (folder / "result.json").unlink()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("cut", "result.json is damaged: it ends early, or is not JSON"),
        ("list", "advice.json is damaged: it is not a JSON object"),
        ("matrix", "result.json is damaged: matrix: it is not 7 rows of 6 scores"),
        ("edited", "result.json is truncated or was changed since it was written: its digest is another"),
        ("other run", f"timing.json is of another run ({'0' * 16}) than "),
        ("other diagnosis", f"diagnosis.json is of another run ({'0' * 16}) than result.json beside it ({RUN})"),
        ("unwritable", "cannot write"),
        ("empty", "holds no result.json, diagnosis.json or advice.json"),
        ("absent", "there is no folder at"),
    ],
)
def test_unusable_input_is_one_sentence(tmp_path, capsys, what, sentence):
    if what != "absent":
        damage(tmp_path, what)
    assert cli.main(["report", str(tmp_path / ("nowhere" if what == "absent" else ""))]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("avalanche-vlm: ") and sentence in err and str(tmp_path) in err and "\n" not in err


def test_the_report_needs_neither_torch_nor_avalanche(tmp_path):
    save(tmp_path, files.entry())
    code = (
        "import sys, avalanche_vlm.cli as c\n"
        f"c.main(['report', {str(tmp_path)!r}])\n"
        "print([m for m in ('torch', 'avalanche', 'numpy', 'matplotlib', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("[]")
