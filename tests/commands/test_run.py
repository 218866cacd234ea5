"""``run`` and ``compare`` on the picturebook."""

from __future__ import annotations

import csv
import shutil

import pytest
from small_runs import SMALL, read, run

from avalanche_vlm import cli
from avalanche_vlm.commands import prepare, store
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.errors import InputError


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert run("run", "--recipe", "replay", "--out", str(folder)) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"device": "tpu"}, "holds a result with device = 'tpu', not 'cpu': choose another --out"),
        ({"versions": {}}, "holds a result with versions.python = None, not "),
        ({"recipe_options": {"policy": "reservoir"}}, "holds a result with recipe_options.max_bytes = None, not "),
        ({"stream": None}, "request.json is damaged or of an older version: stream: "),
        ({"sede": 3}, "request.json is damaged or of an older version: sede: Extra inputs are not permitted: choose "),
    ],
)
def test_what_decides_a_result_is_compared_although_nobody_typed_it(finished, tmp_path, capsys, changed, sentence):
    folder = shutil.copytree(finished, tmp_path / "copy")
    store.write_json(folder / "request.json", {**read(folder / "request.json"), **changed})
    assert run("run", "--recipe", "replay", "--out", str(folder)) == 2
    assert sentence in capsys.readouterr().err


def test_the_stored_request_is_what_was_asked_for(finished):
    words = ["run", "--recipe", "replay", "--out", str(finished), *SMALL]
    asked = prepare.experiment(parse(words)[1], "replay", 0)
    assert store.read_experiment(finished / "request.json").stored() == asked.stored()
    stored, protocol = read(finished / "request.json"), read(finished / "result.json")["protocol"]
    for fact in ("recipe", "recipe_options", "train", "seed", "device", "versions"):
        assert stored[fact] == protocol[fact]
    assert set(stored) - set(protocol) == {"stream"} and stored["model"]["name"] == protocol["model"]


@pytest.mark.slow
def test_what_is_named_twice_is_one_experiment(tmp_path):
    assert run("compare", "--recipes", "fine-tune, fine-tune", "--seeds", "0,0", "--out", str(tmp_path)) == 0
    last = read(tmp_path / "summary.json")["recipes"]["fine-tune"]["last"]
    assert last["n"] == 1 and last["std"] is None


def test_what_fails_every_recipe_is_said_once(tmp_path, capsys):
    assert run("compare", "--recipes", "fine-tune,lora", "--data", "/no/such", "--out", str(tmp_path)) == 2
    err = capsys.readouterr().err.strip()
    assert err == "avalanche-vlm: fine-tune, seed 0; lora, seed 0: --data: there is no file or folder at /no/such"


@pytest.mark.slow
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


@pytest.mark.slow
def test_options_reach_their_recipe(tmp_path):
    assert run("run", "--recipe", "lora", "--set", "rank=2", "--out", str(tmp_path)) == 0
    assert read(tmp_path / "result.json")["protocol"]["recipe_options"]["rank"] == 2


@pytest.mark.slow
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
