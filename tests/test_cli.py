"""The command line, in process."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avalanche_vlm import cli
from avalanche_vlm.catalogue import ADVISED, COMPARED, catalogue
from avalanche_vlm.commands import store
from avalanche_vlm.errors import InputError

SIZES = "--n-train 64 --n-test 20 --n-held-out 40 --n-reference 40"
SMALL = f"{SIZES} --epochs 1 --order sketches,night --quiet".split()


def run(*arguments: str) -> int:
    return cli.main([*arguments, *SMALL])


def read(path: Path):
    return json.loads(path.read_text())


def test_help_imports_nothing_heavy():
    code = (
        "import sys, avalanche_vlm.cli as c\n"
        "try: c.main(['compare', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'avalanche', 'numpy', 'matplotlib', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--recipes" in out and out.strip().endswith("[]")


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
        (["--recipe", "lora", "--set", "rank=abc"], "recipe lora: rank is a whole number of 1 or more, not abc"),
        (["--recipe", "zscl", "--set", "weight=NaN"], "recipe zscl: weight is a number of 0 or more, not NaN"),
        (["--lr", "0"], "lr must be positive"),
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


def test_the_same_seed_twice_writes_the_same_result(tmp_path, capsys):
    for name in ("a", "b"):
        assert run("run", "--recipe", "fine-tune", "--out", str(tmp_path / name)) == 0
    assert (tmp_path / "a/result.json").read_bytes() == (tmp_path / "b/result.json").read_bytes()
    written = "result.json ledger.json timing.json request.json results.csv summary.json matrix.png held_out.png"
    assert {p.name for p in (tmp_path / "a").iterdir()} == set(written.split())
    assert (tmp_path / "a/matrix.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    for column in ("Last", "Avg", "Transfer", "Forget", "BWT", "ZSD", "Held-out R@1", "Stored", "Trainable", "Seconds"):
        assert column in out
    assert "(pretrained)" in out
    (row,) = csv.DictReader((tmp_path / "a/results.csv").open())
    result = read(tmp_path / "a/result.json")
    assert float(row["last"]) == result["metrics"]["last"] and row["recipe"] == "fine-tune"


@pytest.fixture
def compared(tmp_path) -> list[str]:
    arguments = ["compare", "--recipes", "fine-tune,lora", "--seeds", "0,1", "--out", str(tmp_path)]
    assert run(*arguments) == 0
    return arguments


def test_compare_keeps_what_is_finished_and_refuses_another_protocol(tmp_path, compared, capsys, monkeypatch):
    kept = tmp_path / "fine-tune/seed-0/result.json"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "lora/seed-1/result.json").unlink()
    cut = tmp_path / "fine-tune/seed-1/result.json"
    whole = cut.read_text()
    cut.write_text(whole[:100])
    assert cli.main([*compared, *SMALL[:-1]]) == 0
    assert f"{cut} is damaged" in capsys.readouterr().err
    assert kept.stat().st_mtime_ns == stamp
    assert cut.read_text() == whole and (tmp_path / "lora/seed-1/result.json").exists()
    summary = read(tmp_path / "summary.json")
    assert summary["recipes"]["lora"]["last"]["n"] == 2 and summary["recipes"]["lora"]["last"]["std"] is not None
    assert len(list(csv.DictReader((tmp_path / "results.csv").open()))) == 4
    for name in ("metrics.png", "held_out.png", "matrices.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    # Refused before anything is trained, even if only what is asked for last is there.
    shutil.rmtree(tmp_path / "fine-tune")
    assert run(*compared, "--lr", "1e-5") == 2
    err = capsys.readouterr().err.strip()
    assert "holds a result with train.lr = 0.005, not 1e-05" in err and "choose another --out" in err
    assert "\n" not in err and not (tmp_path / "fine-tune").exists()


@pytest.mark.parametrize("changed", ["versions", "device", "recipe_options"])
def test_what_decides_a_result_is_compared_although_nobody_typed_it(tmp_path, capsys, changed):
    arguments = ["run", "--recipe", "replay", "--out", str(tmp_path)]
    assert run(*arguments) == 0
    request = read(tmp_path / "request.json")
    request[changed] = {"device": "tpu", "versions": {}, "recipe_options": {"policy": "reservoir"}}[changed]
    store.write_json(tmp_path / "request.json", request)
    assert run(*arguments) == 2
    assert f"holds a result with {changed}" in capsys.readouterr().err


def test_what_is_named_twice_is_one_experiment(tmp_path):
    assert run("compare", "--recipes", "fine-tune, fine-tune", "--seeds", "0,0", "--out", str(tmp_path)) == 0
    last = read(tmp_path / "summary.json")["recipes"]["fine-tune"]["last"]
    assert last["n"] == 1 and last["std"] is None


def test_what_fails_every_recipe_is_said_once(tmp_path, capsys):
    assert run("compare", "--recipes", "fine-tune,lora", "--data", "/no/such", "--out", str(tmp_path)) == 2
    err = capsys.readouterr().err.strip()
    assert err == "avalanche-vlm: fine-tune, seed 0; lora, seed 0: --data: there is no file or folder at /no/such"


def test_a_recipe_that_fails_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    from avalanche_vlm.studies import experiment

    real = experiment.run_experiment

    def failing(benchmark, recipe, **options):
        if recipe == "zscl":
            options["on_row"](0, [[0.5, float("nan")]])
            raise InputError("the loss became nan")
        return real(benchmark, recipe, **options)

    monkeypatch.setattr(experiment, "run_experiment", failing)
    assert run("compare", "--recipes", "zscl,fine-tune", "--out", str(tmp_path)) == 2
    captured = capsys.readouterr()
    assert "zscl, seed 0: the loss became nan" in captured.err and "fine-tune" in captured.out
    assert read(tmp_path / "zscl/seed-0/partial.json")["matrix"] == [[50.0, None]]
    assert not (tmp_path / "zscl/seed-0/result.json").exists()


def test_options_reach_their_recipe(tmp_path):
    assert run("run", "--recipe", "lora", "--set", "rank=2", "--set", "zscl.l2=3", "--out", str(tmp_path)) == 0
    protocol = read(tmp_path / "result.json")["protocol"]
    assert protocol["recipe_options"]["rank"] == 2 and "l2" not in protocol["recipe_options"]


def test_an_interruption_says_what_is_kept(tmp_path, capsys, monkeypatch):
    from avalanche_vlm.commands import run as commands

    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", interrupted)
    assert run("run", "--out", str(tmp_path)) == 130
    assert f"kept in {tmp_path}" in capsys.readouterr().err


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    store.write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot write .*result\.json: No space left on device"):
        store.write_json(path, {"a": 2})
    assert read(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_results_are_never_nan_on_disk(tmp_path):
    with pytest.raises(ValueError, match="Out of range float values"):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})


def test_pairs_and_class_incremental_streams_run(tmp_path):
    small = [
        "--n-train",
        "40",
        "--n-test",
        "20",
        "--n-held-out",
        "20",
        "--n-reference",
        "20",
        "--epochs",
        "1",
        "--quiet",
    ]
    for benchmark, more in (("picturebook-pairs", ["--order", "night,mosaic"]), ("picturebook-classes", [])):
        out = tmp_path / benchmark
        arguments = ["run", "--benchmark", benchmark, "--recipe", "replay", "--out", str(out), *small, *more]
        assert cli.main(arguments) == 0
        result = read(out / "result.json")
        assert result["protocol"]["label_space"] == (None if benchmark.endswith("pairs") else "seen")


def test_a_users_own_folder_with_a_corrupt_file(tmp_path, capsys):
    from PIL import Image

    data = tmp_path / "mine"
    for task in ("first", "second"):
        for c, name in enumerate(("red thing", "blue thing")):
            for i in range(15):
                path = data / task / name / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20 + 7 * i, 30 + 3 * i), (255 * (1 - c), i, 255 * c)).save(path)
    Image.new("L", (50, 60), 90).save(data / "first" / "red thing" / "grey.png")
    bad = data / "second" / "blue thing" / "cut.jpg"
    bad.write_bytes((data / "second" / "blue thing" / "0.jpg").read_bytes()[:200])
    arguments = ["run", "--data", str(data), "--recipe", "lora", "--epochs", "1", "--lr", "1e-3"]
    assert cli.main([*arguments, "--out", str(tmp_path / "a"), "--quiet"]) == 2
    assert str(bad) in capsys.readouterr().err
    assert cli.main([*arguments, "--on-error", "skip", "--out", str(tmp_path / "b"), "--template", "a {}"]) == 0
    result = read(tmp_path / "b/result.json")
    assert len(result["data"]["skipped"]) == 1 and str(bad) in result["data"]["skipped"][0]
    assert result["protocol"]["templates"] == {"given": ["a {}"]} and result["tasks"] == ["first", "second"]
    assert "left out:" in capsys.readouterr().err


def test_a_users_own_captions_with_bad_rows(tmp_path, capsys):
    from PIL import Image

    rows = ["image,caption"]
    for i in range(24):
        Image.new("RGB", (30, 40), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,picture number {i}")
    rows[3] = "2.png,"
    rows[5] = "gone.png,a lost picture"
    table = tmp_path / "captions.csv"
    table.write_text("\n".join(rows))
    arguments = ["run", "--data", str(table), "--recipe", "replay", "--epochs", "1", "--quiet"]
    assert cli.main([*arguments, "--out", str(tmp_path / "a")]) == 2
    assert "row 4: the caption is empty" in capsys.readouterr().err
    assert cli.main([*arguments, "--on-error", "skip", "--out", str(tmp_path / "b")]) == 0
    assert len(read(tmp_path / "b/result.json")["data"]["skipped"]) == 2
    # A reference set of one's own lets zscl run on one's own data.
    arguments[4] = "zscl"
    assert cli.main([*arguments, "--on-error", "skip", "--out", str(tmp_path / "c")]) == 2
    assert "does not bring, reference pairs: give some with --reference" in capsys.readouterr().err
    more = ["--on-error", "skip", "--reference", str(table), "--out", str(tmp_path / "d")]
    assert cli.main([*arguments, *more]) == 0
    skipped = read(tmp_path / "d/result.json")["data"]["skipped"]
    assert len(skipped) == 4 and sum(sentence.startswith("reference: ") for sentence in skipped) == 2


def test_a_recipe_says_which_resource_it_misses(tmp_path, capsys, monkeypatch):
    from PIL import Image

    for task in ("first", "second"):
        for i in range(6):
            path = tmp_path / "mine" / task / f"class {i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (40 * i, 0, 0)).save(path)
    arguments = ["run", "--data", str(tmp_path / "mine"), "--recipe", "gift", "--epochs", "1", "--quiet"]
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "a generator of pictures: name one with --generator MODEL" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert cli.main([*arguments, "--generator", "/no/model", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip()
    assert err == 'avalanche-vlm: generated images need diffusers: pip install "avalanche-vlm[generate]"'
    assert run("run", "--generator", "some/model", "--out", str(tmp_path / "out")) == 2
    assert "--generator does not apply to picturebook" in capsys.readouterr().err


def test_ones_own_pictures_are_compared_and_advised_on_without_anything_else(tmp_path, capsys):
    from PIL import Image

    for task in ("first", "second"):
        for i in range(12):
            path = tmp_path / "mine" / task / f"class {i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (20 * i, 0, 0)).save(path)
    own = ["--data", str(tmp_path / "mine"), "--epochs", "1"]
    assert cli.main(["compare", *own, "--out", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().err
    assert "left out: recipe zscl needs what" in told and not (tmp_path / "a/zscl").exists()
    assert {path.parent.parent.name for path in tmp_path.glob("a/*/seed-0/result.json")} == {*COMPARED} - {"zscl"}
    named = ["compare", *own, "--recipes", "fine-tune,zscl", "--quiet", "--out", str(tmp_path / "b")]
    assert cli.main(named) == 2 and not (tmp_path / "b").exists()  # before anything is trained
    few = ["--recipes", "fine-tune,zero-shot,replay", "--minutes", "9", "--quiet", "--no-raw-data"]
    assert cli.main(["advise", *own, *few, "--out", str(tmp_path / "c")]) == 0
    advice = read(tmp_path / "c/advice.json")
    assert {entry["recipe"] for entry in advice["excluded"]} <= {"replay", "fine-tune"}
    assert advice["answer"]["recipe"] in ("zero-shot", "fine-tune")
    assert "tasks before their turn" in advice["answer"]["sentence"]
