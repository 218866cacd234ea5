"""What ``doctor`` finds: here, with torch broken or missing, and on a busy machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avalanche_vlm import _processors, cli
from avalanche_vlm.commands import doctor, loading, progress
from avalanche_vlm.commands.arguments import parse


@pytest.fixture
def torch_works(monkeypatch):
    known = {"error": None, "version": "2", "threads": 2, "cuda": None, "devices": []}
    monkeypatch.setattr(doctor, "probed", lambda python: known)
    return known


def test_it_says_what_is_here_and_what_is_missing(torch_works, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(
        doctor, "requirements", lambda: (["numpy"], {"test": ["pytest"], "hf": ["numpy", "no-such-thing"]})
    )
    monkeypatch.setattr(doctor, "crowded", lambda threads: None)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/weights").write_bytes(b"x" * 2048)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "extra hf, for tokenizers" in said and "pip install 'avalanche-vlm[hf]' brings no-such-thing\n" in said
    assert (
        f"cache of Hugging Face's hub: 2.0 KiB in {tmp_path}" in said
        and "extra test, for developers of the package, its tests: there" in said
    )
    assert said.index("extra hf") < said.index("extra test") and "torch: 2 threads; devices: cpu\n" in said
    torch_works["threads"] = 1
    assert cli.main(["doctor"]) == 0 and "torch: 1 thread; devices: cpu\n" in capsys.readouterr().out
    assert said.endswith("nothing is missing that every command needs\n")
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] and found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {of["name"]: of["missing"] for of in found["extras"]} == {"hf": ["no-such-thing"], "test": []}
    assert found["caches"][0]["bytes"] == 2048 and found["system"]["processors"] >= 1


def test_what_every_installation_has_is_missed(torch_works, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "requirements", lambda: (["numpy", "no-such-thing"], {}))
    assert cli.main(["doctor"]) == 1
    assert "no-such-thing is not installed, and every installation has it" in capsys.readouterr().out


def test_the_installed_package_says_what_it_needs():
    always, extras = doctor.requirements()
    assert {"torch", "avalanche-lib", "pydantic"} <= set(always)
    assert "sentencepiece" in extras["hf"] and set(doctor.FEATURES) == set(extras)


BROKEN = {
    "is missing": (
        "raise ModuleNotFoundError(\"No module named 'torch'\")",
        "ModuleNotFoundError: No module named 'torch'",
    ),
    "is broken": ("raise ImportError('libc10.so: cannot open')", "ImportError: libc10.so: cannot open"),
    "takes its process down": ("import os; os._exit(139)", "it ends with 139"),
    "says nothing": ("__version__ = '1'", "AttributeError: "),
}


@pytest.mark.parametrize("how", BROKEN)
def test_it_works_where_torch_does_not(how, tmp_path, capsys, monkeypatch):
    content, sentence = BROKEN[how]
    (tmp_path / "torch.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert cli.main(["doctor"]) == 1
    assert f"torch cannot be used: {sentence}" in capsys.readouterr().out


def test_it_imports_no_torch():
    code = "import sys, avalanche_vlm.cli, avalanche_vlm.commands.doctor; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("threads", "busy", "processors", "room"),
    [(2, 0.3, 2, None), (1, 9.0, 2, None), (2, 1.2, 2, 1), (8, 4.0, 16, None), (16, 4.0, 16, 12), (4, 40.0, 8, 1)],
)
def test_threads_without_a_processor_are_told(threads, busy, processors, room):
    said = _processors.crowded(threads, busy, processors)
    assert (said is None) == (room is None)
    assert said is None or said.endswith(f"try --threads {room}")


def test_a_load_that_the_system_does_not_tell_is_none(monkeypatch):
    def fails():
        raise OSError

    monkeypatch.setattr(os, "getloadavg", fails)
    assert _processors.machine_load() is None and _processors.crowded(64) is None


def test_a_command_says_it_to_whoever_watches(monkeypatch, capsys):
    monkeypatch.setattr(loading, "crowded", lambda threads: f"{threads} threads are too many")
    request = parse(["run", "--out", "x", "--threads", "3"])[1]
    loading.warn_of_crowd(request)
    assert capsys.readouterr().err == ""  # a pipe stays clean
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    loading.warn_of_crowd(request)
    assert capsys.readouterr().err == "3 threads are too many\n"
    loading.warn_of_crowd(parse(["compare", "--out", "x", "--threads", "8"])[1])  # four recipes side by side
    loading.warn_of_crowd(parse(["compare", "--out", "x", "--threads", "8", "--jobs", "1"])[1])
    assert capsys.readouterr().err == "2 threads are too many\n8 threads are too many\n"
    for words in (["run", "--out", "x", "--quiet"], ["run", "--out", "x", "--device", "cuda"], ["report", "x"]):
        loading.warn_of_crowd(parse(words)[1])
    assert capsys.readouterr().err == ""


class Bars:
    """What rich's bars are told."""

    def __init__(self) -> None:
        self.told: list[dict] = []

    def add_task(self, name: str, **fields) -> int:
        self.told.append({"name": name, **fields})
        return len(self.told) - 1

    def update(self, bar: int, **fields) -> None:
        self.told[bar] |= fields

    def refresh(self) -> None:
        pass


def test_a_comparison_says_how_long_all_of_it_takes_still(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bars = Bars()
    shown = progress.Progress(bars, quiet=False)
    shown.whole(4)
    with shown.task("a", 2) as a, shown.task("b", 2) as b:
        b(0, 0, 8)
        clock[0] += 30
        a(1, 0, 8)  # goes on from half, whenever it begins: no work of this hour
        clock[0] += 30
        b(1, 0, 8)
        assert bars.told[0]["completed"] == 1.0 and bars.told[0]["left"] == "6 min left"
        clock[0] += 60
        a(2, 0, 8)
        b(2, 0, 8)
    assert bars.told[0]["completed"] == 2.0 and bars.told[0]["left"] == "3 min left"  # 1.5 in 2 min, 2 are left
    alone = Bars()
    progress.Progress(alone, quiet=False).whole(1)
    progress.Progress(None, quiet=False).whole(3)
    assert alone.told == []


def test_the_page_names_what_it_says():
    assert "avalanche-vlm doctor" in (Path(__file__).parents[2] / "docs/first_aid.md").read_text()
