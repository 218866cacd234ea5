"""What cannot be meant is refused at once, in the words of what would refuse it later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avalanche_vlm import cli
from avalanche_vlm.catalogue import catalogue
from avalanche_vlm.commands import checks, loading, prepare, wanted
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.errors import InputError
from avalanche_vlm.training import recipes

HEAVY = ("torch", "avalanche", "numpy", "open_clip", "matplotlib", "rich")

REFUSED = [
    ("run --recipe zscll", "no recipe is called 'zscll' (did you mean zscl?); there are fine-tune, zero-shot, "),
    ("compare --recipes lora,nope", "no recipe is called 'nope'; there are "),
    ("advise --recipes nope", "no recipe is called 'nope'; there are "),
    ("run --model ViT-B16", "no model is called 'ViT-B16' (did you mean ViT-B-16 or "),
    ("run --model ViT-B-16 --pretrained /no/file.pt", "there is no checkpoint file at /no/file.pt"),
    ("run --data /no/such", "--data: there is no file or folder at /no/such"),
    ("compare --data {table} --recipes lora --label-column klass", "has no column 'klass' (label_column); it has "),
    ("run --data {table} --kind classes --reference /no.csv --recipe zscl", "there is no table at /no.csv"),
    ("run --data {table} --recipe zscl", "recipe zscl needs what {table} does not bring, reference pairs: give some"),
    ("run --data {table} --reference {table}", "--reference does not apply to fine-tune: no recipe asked for takes it"),
    ("run --data {table}", "{table} has labels and captions: say with kind (--kind) whether"),
    ("run --data {table} --n-test 5", "--n-test does not apply to --data"),
    ("run --recipe lora --set rnak=3", "recipe lora has no option 'rnak' (did you mean rank?); it has rank, alpha"),
    ("run --held-out nothing", "no file or folder at nothing, nor is that the name of a published data set, such as"),
    ("run --held-out cifar10", "name of a published data set (did you mean cifar100 or "),
    ("run --set rank=3", "--set rank=3: recipe fine-tune has no option 'rank'; it has none"),
    ("run --recipe lora --set rank=0", "recipe lora: rank is a whole number from 1 to 8192, not 0"),
    ("compare --recipes lora,zscl --set lwf.side=text", "recipe lwf is not asked for, only lora, zscl"),
    ("run --label-smoothing 0.1 --negatives 3", "with negatives=3 only some of them are looked at: give one of them"),
    ("run --device tpu", "--device is auto, cpu, cuda or cuda:N, not 'tpu'"),
    ("run --benchmark picturebook-time --image-column x", "--image-column does not apply to picturebook-time"),
    ("run --template x", "--template does not apply to picturebook, only to --data"),
]


def said(words: str, table: Path) -> list[str]:
    return [word.replace("{table}", str(table)) for word in words.split()]


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text("image,label,caption\na.png,cat,a cat\n")
    return path


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=[words for words, _ in REFUSED])
def test_what_cannot_be_meant_is_refused_before_and_after_the_imports_in_the_same_words(
    tmp_path, table, monkeypatch, capsys, words, sentence
):
    monkeypatch.setattr(checks, "complete", lambda: True)
    monkeypatch.setattr(cli, "load_for", lambda command, request: pytest.fail("something heavy is imported"))
    arguments = [*said(words, table), "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main(arguments) == 2
    early = capsys.readouterr().err.strip()
    assert sentence.replace("{table}", str(table)) in early and "\n" not in early
    monkeypatch.undo()
    monkeypatch.setattr(cli, "check", lambda request: None)
    # advise excludes it in its answer; and the pictures of the data are read before the reference is
    if "advise" not in words and "/no.csv" not in words:
        assert cli.main(arguments) == 2
        late = capsys.readouterr().err.strip()
        assert early.removeprefix("avalanche-vlm: ") in late


def processor_seconds() -> float:
    """What processes that have ended took of the processor, whatever else ran beside them."""
    used = os.times()
    return used.children_user + used.children_system


def test_refusals_take_no_time_and_load_nothing_heavy(tmp_path, table):
    """All in one process: what one of them loads, the next one has."""
    code = f"""if True:
        import sys
        from avalanche_vlm import cli
        for words in {[said(words, table) for words, _ in REFUSED]!r}:
            assert cli.main([*words, "--out", {str(tmp_path / "out")!r}]) == 2, words
        for words in ("diagnose x", "versions x", "rollback x v1", "diff x v1 v2", "update x --data {table}",
                      "predict x {table}", "export x --to open_clip --out y"):
            assert cli.main(words.split()) == 2, words
        print([name for name in {HEAVY!r} if name in sys.modules])
    """
    began = processor_seconds()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "[]\n"), found.stderr
    assert processor_seconds() - began < 5 and len(found.stderr.splitlines()) == len(REFUSED) + 7


TEXTS = [
    "1",
    "0",
    "-1",
    "0.5",
    "1.5",
    "8.0",
    "1e3",
    "true",
    "None",
    "nan",
    "inf",
    "text",
    "both",
    "",
    '"x"',
    "[1]",
    "99",
]


def test_the_catalogue_takes_what_the_recipes_take_and_refuses_the_rest_in_their_words():
    registered, read, free = wanted.REGISTERED, 0, []
    for line in catalogue():
        assert set(line.options) == set(recipes.get(line.name).options)
        assert (line.takes, line.needs) == (recipes.get(line.name).takes, recipes.get(line.name).needs)
        for option, told in line.options.items():
            if told["schema"] is None:
                free.append(f"{line.name}.{option}")
                continue
            for text in [*TEXTS, *recipes.get(line.name).option(option).accepts.replace(",", "").split()]:
                found = []
                for source in (wanted.CATALOGUED, registered):
                    try:
                        found.append(source.parse(line.name, option, text))
                    except InputError as error:
                        found.append(str(error))
                assert repr(found[0]) == repr(found[1]), (line.name, option, text)
                read += 1
    assert read > 3000 and len(free) < 10, free


def test_other_recipes_than_the_catalogues_are_left_to_those_who_know_them(monkeypatch):
    request = parse(["run", "--recipe", "of-mine", "--out", "x"])[1]
    assert not wanted.complete()  # this process has the recipes themselves
    checks.check(request)
    monkeypatch.delitem(sys.modules, "avalanche_vlm.training.recipes.registry")
    assert wanted.complete()
    with pytest.raises(InputError, match="no recipe is called 'of-mine'"):
        checks.check(request)
    monkeypatch.setattr(wanted, "entry_points", lambda group: ["mine"])
    checks.check(request)


def test_a_benchmark_from_elsewhere_is_not_judged_by_its_source(monkeypatch):
    assert checks._parameters("avalanche_vlm.benchmarks.picturebook.streams:mtil_like") >= {"n_train", "order"}
    assert checks._parameters("json:loads") is None and checks._parameters(lambda **options: None) is None


def test_something_turns_while_a_command_loads(monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with loading.spinning(False, "loading torch and avalanche"):
        time.sleep(0.2)
    assert "loading torch and avalanche" in terminal.getvalue()
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    with loading.spinning(True, "loading torch and avalanche"):
        pass
    assert quiet.getvalue() == ""


def test_a_command_that_is_loading_can_be_told_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(loading.HEAVY, "run", "of.nobody")
    monkeypatch.setattr(loading, "import_module", lambda module: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["run", "--out", str(tmp_path)]) == 143
    assert capsys.readouterr().err.startswith("avalanche-vlm: stopped by SIGTERM: what is finished is kept in ")


def test_every_command_says_what_it_loads():
    assert set(loading.HEAVY) == set(cli.COMMANDS) - {"list", "report", "doctor"}
    assert prepare.lacking is wanted.lacking
