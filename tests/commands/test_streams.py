"""What is printed may go nowhere: no command fails of it, and its exit code says so."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pytest

from avalanche_vlm import cli
from avalanche_vlm.commands import checks
from avalanche_vlm.commands.streams import Printed, guarded

LIST = ["list", "recipes"]


def full() -> io.TextIOWrapper:
    return open("/dev/full", "w")


def without_reader() -> io.TextIOWrapper:
    there, here = os.pipe()
    os.close(there)
    return os.fdopen(here, "w")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (full, "avalanche-vlm: standard output cannot be written: No space left on device\n"),
        (without_reader, ""),
        (lambda: None, "avalanche-vlm: standard output cannot be written: it is closed\n"),
    ],
    ids=["full", "no reader", "closed"],
)
def test_output_that_goes_nowhere_is_an_exit_code(make, said, monkeypatch, capsys):
    for words in (LIST, ["--help"]):
        stream = make()
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(words) == 1
        assert capsys.readouterr().err == said
        assert sys.stdout is stream
        if stream is not None:
            stream.close()  # nothing is left in it that would fail now


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
@pytest.mark.parametrize("make", [full, without_reader, lambda: None])
def test_what_is_said_of_errors_may_go_nowhere_as_well(make, monkeypatch, capsys):
    for words, code in ((LIST, 0), (["run", "--recipe", "nix", "--out", "x"], 2)):
        monkeypatch.setattr(sys, "stderr", make())
        assert cli.main(words) == code
        assert ("fine-tune" in capsys.readouterr().out) == (code == 0)


def test_a_stream_keeps_working_for_who_writes_to_it():
    kept = io.StringIO()
    stream = Printed(kept)
    print("a", file=stream, flush=True)
    assert kept.getvalue() == "a\n" and stream.failure is None and not stream.isatty()
    with guarded() as out:
        assert sys.stdout is out and sys.stderr is not sys.__stderr__


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """A library that writes to standard error would write into it."""
    code = f"""
import os, sys
from avalanche_vlm.commands.streams import guarded
with guarded():
    with open({str(tmp_path / "a")!r}, "w") as file:
        file.write("kept")
        os.write(2, b"lost")
        sys.exit(file.fileno() < 3)
"""
    closed = subprocess.run(["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code])
    assert closed.returncode == 0 and (tmp_path / "a").read_text() == "kept"


def test_unknown_words_are_harmless_to_a_terminal(capsys):
    for words in (["run", "--out", "x", "\x1b[2J"], ["nix\x1b[2J"], ["run", "--seed", "\x9b31m", "--out", "x"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        err = capsys.readouterr().err
        assert ended.value.code == 2 and "\\x" in err and "\x1b" not in err and "\x9b" not in err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("words", [LIST, ["report", "x"], ["versions", "x"], ["predict", "x", "y"]])
def test_a_signal_ends_every_command_with_a_sentence(name, words, monkeypatch, capsys):
    if not hasattr(signal, name):
        pytest.skip("this system has no such signal")
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        monkeypatch.setattr(cli, "check", lambda request: os.kill(os.getpid(), number))
        assert cli.main(words) == 128 + number
        err = capsys.readouterr().err
        assert err.startswith(f"avalanche-vlm: stopped by {name}") and err.count("\n") == 1
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no terminals that go")
def test_a_command_under_nohup_goes_on(monkeypatch, capsys):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        real = checks.check
        monkeypatch.setattr(cli, "check", lambda request: (os.kill(os.getpid(), signal.SIGHUP), real(request)))
        assert cli.main(LIST) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


LONG = "x" * 300
DEEP = "/".join(["x" * 250] * 15)


@pytest.mark.skipif(not hasattr(os, "pathconf"), reason="this system does not say how long paths may be")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--out", LONG], "the name 'xxxxxxxxxxxxx...' has 300 bytes, and this disk takes 255 at most"),
        (["compare", "--out", LONG], "has 300 bytes, and this disk takes 255 at most"),
        (["advise", "--out", LONG], "has 300 bytes, and this disk takes 255 at most"),
        (["run", "--out", "ä" * 200], "has 400 bytes, and this disk takes 255 at most"),
        (["run", "--out", f"{DEEP}/{'x' * 100}"], "bytes that will lie in it, and this system takes 4095 at most"),
        (["report", LONG], "has 300 bytes, and this disk takes 255 at most"),
        (["diagnose", LONG], "has 300 bytes, and this disk takes 255 at most"),
        (["predict", LONG, "x"], f"{LONG}/model.json: File name too long"),
        (["run", "--data", LONG, "--out", "x"], f"{LONG}: File name too long"),
        (["run", "--pretrained", f"/{LONG}", "--out", "x"], f"/{LONG}: File name too long"),
    ],
)
def test_a_path_that_is_too_long_is_a_sentence_before_anything_is_done(words, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "load_for", None)  # nothing heavy is loaded for it
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not os.listdir(tmp_path)
