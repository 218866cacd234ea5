"""A few inputs for every target, and what the harness itself must find: crashes, hangs, processes that die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import trying
from example import TARGETS, Example, shares, target
from mutators import as_text, changed, changed_json
from running import Place, Tally
from trying import kept, numbered, tried

from avalanche_vlm.commands.arguments import parser


@pytest.fixture(scope="module", autouse=True)
def _parser_of_others():
    """Targets keep one parser for all of their inputs; tests behind them may register what it would not know."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parser, "_parser", parser._parser)
        yield


PLANTED = """
from example import Example
from pathlib import Path
import os, signal, time

SHARE, QUICK = 1, 1


def make(random):
    return Example("a.bin", bytes([random.randrange(4)] * random.randrange(1, 9)))


def check(example, folder):
    from avalanche_vlm.errors import InputError

    kind = example.content[0]
    if kind == 0:
        raise InputError("a sentence")
    if kind == 1:
        raise KeyError("planted")
    if kind == 2 and "SLOW" in os.environ:
        time.sleep(60)
    if kind == 2 and "BUSY" in os.environ:
        while True:
            pass
    if kind == 3 and "DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_answered_or_refused_in_a_sentence(name, tmp_path):
    tested = target(name)

    for number in range(tested.QUICK):
        example = numbered(tested, 0, number)
        found = tried(tested, example, tmp_path / "input", seconds=60)  # what is slow here may be the machine
        assert found is None, f"input {number}: {found.cause}\n{example}\n{found.told}"


def test_every_target_makes_the_same_inputs_again():
    for name in TARGETS:
        if not getattr(target(name), "WORLD", False):
            assert [numbered(target(name), 3, n) for n in range(5)] == [numbered(target(name), 3, n) for n in range(5)]


def test_the_command_counts_what_is_planted_and_goes_on_where_it_was(planted, tmp_path):
    first = planted("--inputs", "12", DIES="1")
    assert first.returncode == 1
    tally = Place(tmp_path / "out", "planted", 0).read()
    kinds = [numbered(target("planted"), 0, n).content[0] for n in range(12)]
    assert tally.inputs == 12 and tally.hangs == 0
    assert tally.crashes == kinds.count(1) + kinds.count(3) > kinds.count(3) > 0
    assert {cause: n for cause, n in tally.causes.items() if "KeyError" in cause} == {
        next(c for c in tally.causes if "KeyError" in c): kinds.count(1)
    }
    assert tally.causes["the process ends with -9"] == kinds.count(3)
    again = planted("--inputs", "14")
    assert again.returncode == 1 and Place(tmp_path / "out", "planted", 0).read().inputs == 14
    saved = planted("--replay", str(tmp_path / "out" / "findings"))
    assert saved.returncode == 1 and "crash: KeyError" in saved.stdout


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """The command on a target that was made for it."""
    import os

    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    here = Path(__file__).parent
    path = os.pathsep.join([str(tmp_path), str(here.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(here), "--only", "planted", "--out", str(tmp_path / "out"), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **environment}
        )

    return run


@pytest.mark.parametrize("how", ["SLOW", "BUSY"])
def test_what_waits_or_works_too_long_is_a_hang(planted, tmp_path, monkeypatch, how):
    monkeypatch.setenv(how, "1")
    monkeypatch.setattr(trying, "BUSY", 2 if how == "SLOW" else 1000)
    found = tried(target("planted"), Example("a.bin", b"\2"), tmp_path / "input", seconds=0.1)
    assert found is not None and found.kind == "hang"
    assert tried(target("planted"), Example("a.bin", b"\0"), tmp_path / "input", seconds=0.1) is None


@pytest.mark.parametrize("name", ["sub/a.bin", "a+b.bin", "sub/a+b%2F-c d.bin", "\u00e9\n\\.bin"])
def test_a_finding_is_kept_as_a_file_that_is_the_input(planted, tmp_path, name):
    example = Example(name, b"\1\1")
    found = tried(target("planted"), example, tmp_path / "input")
    path = trying.keep(tmp_path / "findings" / "planted", example, found)
    assert kept(path) == example and "KeyError" in Path(f"{path}.told").read_text()


def test_inputs_are_shared_out_by_weight():
    asked = shares(["tables", "saved_models"], 8200)
    assert asked == {"tables": 7987, "saved_models": 212}
    assert Tally().inputs == 0


def test_changes_change_something_and_are_drawn_from_the_seed_alone():
    value = {"a": [1, 2, {"b": "c"}], "d": None}
    texts = [as_text(Random(seed), changed_json(Random(seed), value)) for seed in range(200)]
    assert texts == [as_text(Random(seed), changed_json(Random(seed), value)) for seed in range(200)]
    assert value == {"a": [1, 2, {"b": "c"}], "d": None} and len(set(texts)) > 100
    contents = {changed(Random(seed), b"some bytes", (b"word",), (b"other",)) for seed in range(200)}
    assert len(contents) > 100 and any(b"word" in content for content in contents)
