"""Files that the program keeps and reads again, changed by accident and by forgers: nothing wrong passes, and nothing
but a sentence is said."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import page_files
import pytest
from mutations import forged, kinds, mutated, spoilt
from small_runs import SMALL, as_earlier, forge, read, run

from avalanche_vlm import cli
from avalanche_vlm.artifacts.description import read_description
from avalanche_vlm.commands import store
from avalanche_vlm.commands.report import read_folder
from avalanche_vlm.errors import InputError
from avalanche_vlm.evaluation.results import RESULT, metrics_of
from avalanche_vlm.evaluation.survey import survey_metrics
from avalanche_vlm.storage.yaml_files import parse_yaml, plain_types, yaml_text
from avalanche_vlm.studies.advice.advised import ADVICE, PILOT
from avalanche_vlm.studies.diagnosed import DIAGNOSIS
from avalanche_vlm.studies.living.kept import SPACE
from avalanche_vlm.studies.living.records import read_record

RUN = "0123456789abcdef"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A run with its model, and what a diagnosis and an advice would leave beside it."""
    folder = tmp_path_factory.mktemp("kept")
    assert run("run", "--recipe", "wise-ft", "--out", str(folder)) == 0
    known = read(folder / "result.json")["run"]
    DIAGNOSIS.write(folder / "diagnosis.json", {"run": known, **page_files.diagnosis()})
    ADVICE.write(folder / "advice.json", page_files.advice())
    ledger = page_files.advice()["ledger"]["lora"]
    tried = {"recipe": "lora", "share": 0.5, "tasks": [[1.0, 0.5]], "kept": {"size": [-1.0, 0.0]}, "ledger": ledger}
    tried |= {"seconds": 2.5, "full_bytes": 9}
    (folder / "earlier").mkdir()
    shutil.copy(folder / "request.yaml", folder / "earlier")
    as_earlier(folder / "earlier")
    PILOT.write(folder / "pilot.json", {"request": {"recipe": "lora", "share": 0.5}, "pilot": tried})
    return folder


READERS = {
    "result.json": lambda path: store.read_entry(path.parent),
    "timing.json": lambda path: store.read_entry(path.parent),
    "ledger.json": lambda path: store.read_entry(path.parent),
    "views.json": lambda path: read_folder(path.parent),
    "earlier/request.json": lambda path: store.read_experiment(path),
    "diagnosis.json": lambda path: read_folder(path.parent),
    "advice.json": lambda path: read_folder(path.parent),
    "pilot.json": PILOT.read,
    "versions/v1.json": lambda path: read_record(path.parents[1], "v1"),
    "versions/v1/model.json": lambda path: read_description(path.parent),
    "tests/v1-held-out-size.json": SPACE.read,
}
"""What reads each kind of file."""


def refused(name: str, path: Path) -> bool:
    """Whether a file is refused, and in one sentence with its name."""
    try:
        READERS[name](path)
    except InputError as error:
        said = str(error)
        assert path.name in said and "\n" not in said and len(said) < 700, said
        return True
    return False


@pytest.mark.parametrize("name", READERS)
def test_what_was_changed_is_refused_in_a_sentence(home, name):
    path, draws = home / name, random.Random(name)
    whole = path.read_bytes()
    assert not refused(name, path)
    try:
        for _ in range(25):
            what, text = spoilt(whole, draws)
            path.write_bytes(text)
            same = _read_or_none(text) == json.loads(whole)
            assert refused(name, path) or same, what
            what, content = mutated(json.loads(whole), draws)
            path.write_text(json.dumps(content))
            assert refused(name, path) or content == json.loads(whole), what
    finally:
        path.write_bytes(whole)


def test_a_request_that_was_changed_is_refused_in_a_sentence(home):
    path, draws = home / "request.yaml", random.Random("request")
    whole, asked = path.read_bytes(), store.read_experiment(path)
    said = plain_types(parse_yaml(whole.decode(), path))

    def looked_at(content: bytes, what) -> None:
        path.write_bytes(content)
        try:
            assert store.read_run(home)[0] == asked, what  # as where a comment was changed
        except InputError as error:
            assert path.name in str(error) and "\n" not in str(error) and len(str(error)) < 700, error

    try:
        for _ in range(25):
            what, text = spoilt(whole, draws)
            looked_at(text, what)
            what, content = mutated(said, draws)
            try:
                text = yaml_text(content).encode() if isinstance(content, dict) else b"- 1"
            except (ValueError, TypeError):  # of a number that JSON does not have
                continue
            looked_at(text, what)
    finally:
        path.write_bytes(whole)


def _read_or_none(text: bytes):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


FREE = (
    "protocol",
    "recipe_options",
    "about",
    "options",
    "state",
    "weights",
    "request",
    "tokenizer",
    "config",
    "result",
)
"""Under these keys whatever JSON has may stand, as far as a schema says."""
MAPS = ("held_out", "alignment", "curves", "sets", "ledger", "operational_parts", "parts", "versions", "cut", "files")
MAPS = (*MAPS, "strides", "trains", "transforms", "scores", "before", "metrics", "kept")
"""Under these keys any names may stand."""


def leaves(value, place: tuple[str, ...] = ()):
    """Places, the same for all of a list or of any name, and what stands there."""
    if place and place[-1] in FREE:
        return
    if isinstance(value, dict):
        for key, of in value.items():
            yield from leaves(of, (*place, "*" if place and place[-1] in MAPS else key))
    elif isinstance(value, list):
        for of in value:
            yield from leaves(of, (*place, "*"))
    else:
        yield place, kinds(value)


@pytest.mark.parametrize("name", READERS)
def test_what_was_made_up_with_a_right_digest_is_of_the_right_kind(home, name):
    path, draws = home / name, random.Random(f"forged {name}")
    whole = path.read_bytes()
    before, passed = json.loads(whole), 0
    known = set(leaves(before))
    try:
        for _ in range(40):
            what, content = mutated(before, draws)
            path.write_bytes(forged(content))
            if not refused(name, path):
                passed += 1
                assert content["format"] == before["format"], what
                for place, kind in leaves(content):
                    maybe = kind == "NoneType" or (place, "NoneType") in known  # what may be missing
                    assert (place, kind) in known or maybe or place == ("sha256",), (what, place, kind)
    finally:
        path.write_bytes(whole)
    assert passed < 40


def test_a_forged_score_is_none_that_its_matrix_does_not_come_to(home):
    path = home / "result.json"
    whole, before = path.read_bytes(), read(path)
    try:
        for name in ("last", "avg", "transfer", "forget", "bwt", "zsd"):
            forge(path, metrics={**before["metrics"], name: 99.0})
            with pytest.raises(InputError, match=rf"result\.json is damaged: metrics: {name} is not what the matrix"):
                store.read_entry(home)
        forge(path, matrix=[[row[0], 100.5] for row in before["matrix"]])
        with pytest.raises(InputError, match=r"result\.json is damaged: matrix\.0\.1: input should be less than"):
            store.read_entry(home)
    finally:
        path.write_bytes(whole)


def test_the_two_ways_to_compute_metrics_are_one():
    draws = random.Random(0)
    for tasks in (1, 2, 3, 5):
        for _ in range(10):
            rows = [[round(draws.uniform(0, 100), 4) for _ in range(tasks)] for _ in range(tasks + 1)]
            if draws.random() < 0.5:
                rows[draws.randrange(tasks + 1)][draws.randrange(tasks)] = None
            for name, value in survey_metrics(rows[1:], rows[0]).items():
                there = metrics_of(rows)[name]
                assert (there is None) == (value != value) and (there is None or there == pytest.approx(value))


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_a_run_on_any_graphics_card_is_read_and_one_on_another_kind_is_told(home, tmp_path, device):
    asked = store.read_experiment(home / "request.yaml").model_copy(update={"device": device})
    store.write_request(tmp_path, asked)
    result = {key: value for key, value in read(home / "result.json").items() if key not in ("format", "sha256")}
    for there in ("cuda", "cpu"):
        protocol = {**result["protocol"], "device": there}
        RESULT.write(tmp_path / "result.json", {**result, "run": asked.run_id, "protocol": protocol})
        if there == "cuda":
            assert (
                store.finished(tmp_path, asked)["result"]["protocol"]
                == protocol
                == store.read_run(tmp_path)[1]["protocol"]
            )
    with pytest.raises(InputError, match=r"says device = 'cpu', and request\.yaml beside it 'cuda'"):
        store.read_run(tmp_path)


@pytest.mark.parametrize("file", ["result.json", "timing.json", "ledger.json", "request.yaml"])
def test_a_file_of_another_run_is_told(home, tmp_path, file, capsys):
    other = shutil.copytree(home, tmp_path / "other", symlinks=True)
    if file == "request.yaml":
        forge(other / file, seed=3)
    else:
        forge(other / file, run=RUN)
    before = {path: path.read_bytes() for path in other.rglob("*.json")}
    for words in (["report", str(other)], ["diagnose", str(other), "--quiet"]):
        assert cli.main(words) == 2
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        assert "is of another run" in sentence and sentence.endswith("move that folder away to run it again")
    assert cli.main(["run", "--recipe", "wise-ft", "--out", str(other), *SMALL]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in other.rglob("*.json")} == before


def test_an_edited_result_is_not_taken_for_this_runs_and_stays(home, tmp_path, capsys):
    other = shutil.copytree(home, tmp_path / "other", symlinks=True)
    path = other / "result.json"
    last = read(path)["metrics"]["last"]
    edited = path.read_text().replace(f'"last": {last}', '"last": 99.0', 1)
    path.write_text(edited)
    for words in (["run", "--recipe", "wise-ft", "--out", str(other), *SMALL], ["report", str(other)]):
        assert cli.main(words) == 2
        assert "result.json is truncated or was changed since it was written" in capsys.readouterr().err
    assert path.read_text() == edited


def test_the_model_of_another_run_is_told(home, tmp_path, capsys):
    other = shutil.copytree(home, tmp_path / "other", symlinks=True)
    forge(other / "versions/v1/model.json", about={"run": RUN})
    words = ["run", "--recipe", "wise-ft", "--out", str(other), *SMALL]
    assert cli.main(words) == 2
    assert f"model.json is of another run ({RUN}) than " in capsys.readouterr().err


def test_files_carry_what_their_run_is_known_by(home):
    known = {read(home / name)["run"] for name in ("request.yaml", "result.json", "timing.json", "ledger.json")}
    assert known == {read_description(home / "versions/v1").about["run"]}
    assert RESULT.read(home / "result.json")["run"] in known
