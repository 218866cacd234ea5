"""The command line: its words, its exit codes, and that asking for help loads nothing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from small_runs import SMALL, run

from avalanche_vlm import cli
from avalanche_vlm import errors as errors_of_ours
from avalanche_vlm.catalogue import ADVISED, COMPARED, catalogue
from avalanche_vlm.errors import DataWarning, VLMWarning


def test_names_on_the_command_line_are_those_of_the_library():
    from avalanche_vlm.training import recipes

    shipped = [line.name for line in catalogue()]
    assert recipes.list() == shipped and {*COMPARED, *ADVISED} < set(shipped)


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["run"], ["run", "--out", "x", "--seed", "one"], ["run", "--out", "x", "--benchmark", "mnist"], ["fly"]),
        *(["run", "--out", "x", *bad.split()] for bad in ("--threads 0", "--workers=-1", "--n-train 0", "--lr nan")),
        *(["run", "--out", "x", *bad.split()] for bad in ("--warmup=-1", "--weight-decay=-1", "--n-reference 0")),
        ["compare", "--out", "x", "--seeds", "0,,1"],
    ],
)
def test_bad_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().err


def test_an_unknown_argument_is_answered_with_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--out", "x", "--foo", "1"])
    err = capsys.readouterr().err
    assert err.startswith("usage: avalanche-vlm run ") and "unrecognized arguments: --foo 1" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("comapre --out x", "'doctor') (did you mean compare?)"),
        ("run --out x --recpie zscl", "unrecognized arguments: --recpie zscl (did you mean --recipe"),
        ("run --out x --recpie=zscl", "--recpie=zscl (did you mean --recipe"),
        ("list recipies", "(did you mean recipes?)"),
        ("run --out x --benchmark picturebok", "(did you mean picturebook or "),
        ("run --out x --nothing-like-it", "unrecognized arguments: --nothing-like-it\n"),
    ],
)
def test_a_word_that_is_misspelt_is_answered_with_one_that_there_is(capsys, words, sentence):
    with pytest.raises(SystemExit):
        cli.main(words.split())
    err = capsys.readouterr().err
    assert sentence in err and err.startswith("usage: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--recipe", "zcsl"], "no recipe is called 'zcsl'"),
        (["--data", "/no/such/folder"], "--data: there is no file or folder at /no/such/folder"),
        (["--model", "ViT-B-61"], "no model is called 'ViT-B-61'"),
        (["--set", "rank"], "--set rank: write OPTION=VALUE"),
        (["--set", "rank=2"], "--set rank=2: recipe fine-tune has no option 'rank'; it has none"),
        (["--recipe", "lora", "--set", "range=2"], "recipe lora has no option 'range'; it has rank, "),
        (["--benchmark", "picturebook-pairs", "--label-space", "seen"], "--label-space does not apply to"),
        (["--n-test", "4000", "--order", "digits"], "400 pictures for test, 4000 were asked for"),
        (["--device", "cuda:7"], "has no CUDA device"),
        (["--device", "gpu"], "--device is auto, cpu, cuda or cuda:N, not 'gpu'"),
        (["--recipe", "lora", "--set", "rank=abc"], "recipe lora: rank is a whole number from 1 to 8192, not abc"),
        (["--recipe", "zscl", "--set", "weight=NaN"], "recipe zscl: weight is a number of 0 or more, not NaN"),
        (["--reference", "/no/such.csv"], "--reference does not apply to picturebook, only to --data"),
        (["--data", str(Path(__file__).parent)], "--n-train does not apply to --data"),
    ],
)
def test_unusable_input_is_one_sentence(tmp_path, capsys, arguments, sentence):
    if "cuda:7" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
    code = cli.main(["run", "--out", str(tmp_path / "x"), *SMALL, *arguments])
    err = capsys.readouterr().err.strip()
    assert code == 2 and err.startswith("avalanche-vlm: ") and sentence in err and "\n" not in err


def test_a_warning_of_ours_is_one_sentence_without_a_place(tmp_path, monkeypatch):
    from avalanche_vlm.commands import run as commands

    shown = []  # as a command shows them; while tests run, pytest collects warnings
    kinds = (VLMWarning, DataWarning, UserWarning)
    monkeypatch.setattr(
        commands,
        "run",
        lambda asked: shown.extend(warnings.formatwarning("it is long", of, "x.py", 3) for of in kinds) or 0,
    )
    assert run("run", "--out", str(tmp_path)) == 0
    assert shown == ["avalanche-vlm: it is long\n"] * 2 + [warnings.formatwarning("it is long", UserWarning, "x.py", 3)]
    assert shown[2].startswith("x.py:3: UserWarning")


def test_every_warning_of_the_package_is_declared_as_its_own():
    ours = {name for name, of in vars(errors_of_ours).items() if isinstance(of, type) and issubclass(of, VLMWarning)}
    calls = [
        (path.name, node)
        for path in Path(cli.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    ]
    assert len(calls) > 10
    for where, call in calls:
        assert len(call.args) == 2 and ast.unparse(call.args[1]) in ours, (where, call.lineno)


def test_an_interruption_says_what_is_kept(tmp_path, capsys, monkeypatch):
    from avalanche_vlm.commands import run as commands

    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupted)
    assert run("run", "--out", str(tmp_path)) == 130
    assert f"kept in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--help", "run --help", "compare --help", "list recipes", "list benchmarks"])
def test_asking_what_there_is_loads_nothing_heavy(words):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['avalanche-vlm', *{words.split()!r}]\n"
        "try: runpy.run_module('avalanche_vlm', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "print([m for m in ('torch', 'avalanche', 'numpy', 'open_clip', 'matplotlib', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert len(out) > 200 and out.strip().endswith("[]")


def test_a_reader_that_has_gone_is_no_error_of_ours():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "avalanche_vlm", "list", "formats"]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (run.returncode, run.stderr) == (1, "")


def test_threads_are_set_before_a_command_runs(monkeypatch):
    import torch

    from avalanche_vlm.commands import report as commands
    from avalanche_vlm.commands import run as runs

    seen = []
    monkeypatch.setattr(runs, "run", lambda request: seen.append((request.seed, torch.get_num_threads())) or 0)
    before = torch.get_num_threads()
    try:
        assert cli.main(["run", "--out", "x", "--seed", "4", "--threads", "2"]) == 0
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(commands, "report", lambda request: seen.append(request.out.name) or 0)
    assert cli.main(["report", "here"]) == 0
    assert seen == [(4, 2), "here"]
