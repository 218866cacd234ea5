"""``run`` and ``compare`` on the picturebook."""

from __future__ import annotations

import csv
import os
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import SMALL, as_earlier, forge, read, run

from avalanche_vlm import cli
from avalanche_vlm.commands import jobs, prepare, store
from avalanche_vlm.commands.arguments import parse
from avalanche_vlm.errors import InputError
from avalanche_vlm.models import tiny
from avalanche_vlm.storage.documents import Document

pytestmark = pytest.mark.usefixtures("narrow_tiny")


@pytest.mark.slow
def test_the_same_seed_twice_writes_the_same_result(tmp_path, capsys):
    for name in ("a", "b"):
        assert run("run", "--recipe", "fine-tune", "--out", str(tmp_path / name)) == 0
    assert (tmp_path / "a/result.json").read_bytes() == (tmp_path / "b/result.json").read_bytes()
    written = "result.json ledger.json timing.json views.json request.yaml results.csv summary.json matrix.png"
    folders = "held_out.png .lock model versions tests"
    assert {p.name for p in (tmp_path / "a").iterdir()} == {*written.split(), *folders.split()}
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
    arguments = ["compare", "--recipes", "zero-shot,lora", "--seeds", "0,1", "--out", str(tmp_path)]
    assert run(*arguments) == 0
    return arguments


def test_compare_keeps_what_is_finished_and_refuses_another_protocol(tmp_path, compared, capsys, monkeypatch):
    kept = tmp_path / "zero-shot/seed-0/result.json"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "lora/seed-1/result.json").unlink()
    cut = tmp_path / "zero-shot/seed-1/result.json"
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
    shutil.rmtree(tmp_path / "zero-shot")
    assert run(*compared, "--lr", "1e-5") == 2
    err = capsys.readouterr().err.strip()
    assert "holds a result with train.lr = 0.005, not 1e-05" in err and "choose another --out" in err
    assert "\n" not in err and not (tmp_path / "zero-shot").exists()


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
    ],
)
def test_what_decides_a_result_is_compared_although_nobody_typed_it(finished, tmp_path, capsys, changed, sentence):
    folder = shutil.copytree(finished, tmp_path / "copy")
    forge(folder / "request.yaml", **changed)
    assert run("run", "--recipe", "replay", "--out", str(folder)) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({}, "finished before, kept"),
        ({"stream": 3}, "request.json is damaged: stream: input should be a valid dictionary"),
        ({"stream": None}, "request.json is damaged: it has no stream: choose another --out"),
        ({"sede": 3}, "request.json is damaged: it has sede, which does not belong there: choose another --out"),
    ],
)
def test_the_request_of_an_earlier_version_is_read(finished, tmp_path, capsys, changed, sentence):
    folder = shutil.copytree(finished, tmp_path / "copy")
    forge(as_earlier(folder), **changed)
    words = [word for word in SMALL if word != "--quiet"]
    assert cli.main(["run", "--recipe", "replay", "--out", str(folder), *words]) == (2 if changed else 0)
    assert sentence in capsys.readouterr().err


def test_the_stored_request_is_what_was_asked_for(finished):
    words = ["run", "--recipe", "replay", "--out", str(finished), *SMALL]
    asked = prepare.experiment(parse(words)[1], "replay", 0)
    assert store.read_experiment(finished / "request.yaml").stored() == asked.stored()
    stored, protocol = read(finished / "request.yaml"), read(finished / "result.json")["protocol"]
    for fact in ("recipe", "recipe_options", "seed", "device", "versions"):
        assert stored[fact] == protocol[fact]
    # None leaves the choice to the recipe; the protocol says what was chosen.
    assert stored["train"]["train_classes"] is None and protocol["train"]["train_classes"] == "current"
    assert {**stored["train"], "train_classes": "current"} == protocol["train"]
    assert protocol["data"]["seed"] == 0 and stored["stream"]["seed"] is None  # it follows the training's
    assert (
        set(stored) - set(protocol) == {"stream", "run", "format", "sha256"}
        and stored["model"]["name"] == protocol["model"]
    )


@pytest.fixture
def my_data(tmp_path):
    """Two tasks of two classes, a checkpoint and reference pairs, as a user would have them."""
    rng = np.random.default_rng(0)
    for task in ("one", "two"):
        for name in ("circle", "star"):
            folder = tmp_path / "mine" / task / name
            folder.mkdir(parents=True)
            for i in range(8):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    shutil.copy(tiny.WEIGHTS, tmp_path / "w.safetensors")
    rows = [f"mine/one/star/{i}.png,a star" for i in range(8)]
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "\n".join(rows))
    return tmp_path


@pytest.mark.slow
def test_what_changed_between_two_starts_is_noticed_and_nothing_is_lost(my_data, capsys):
    def compare(recipes: str, seeds: str = "0", root: Path = my_data) -> int:
        words = f"compare --recipes {recipes} --seeds {seeds} --epochs 1 --batch-size 8 --device cpu --quiet"
        paths = ["--data", root / "mine", "--reference", root / "pairs.csv", "--pretrained", my_data / "w.safetensors"]
        return cli.main([*words.split(), "--set", "batch_size=4", "--out", str(my_data / "out"), *map(str, paths)])

    assert compare("zscl") == 0
    result = my_data / "out/zscl/seed-0/result.json"
    first = result.read_bytes()
    # Data that were moved are the same data.
    moved = my_data / "elsewhere"
    moved.mkdir()
    shutil.copytree(my_data / "mine", moved / "mine")
    shutil.copy(my_data / "pairs.csv", moved)
    assert compare("zscl", root=moved) == 0 and result.read_bytes() == first
    capsys.readouterr()

    def refused(recipes: str, file: str, field: str, seeds: str = "0") -> None:
        assert compare(recipes, seeds) == 2
        err = capsys.readouterr().err.strip()
        assert f"{my_data / file} has changed since {result.parent} was run ({field} was '" in err
        assert err.endswith("choose another --out, or move that folder away to run it again") and "\n" not in err
        assert result.read_bytes() == first and {p.name for p in (my_data / "out/zscl").iterdir()} == {"seed-0"}

    picture = my_data / "mine/two/star/3.png"
    before = picture.read_bytes()
    Image.new("RGB", (32, 32), "red").save(picture)
    refused("zscl", "mine", "data.content.train", seeds="0,1")
    refused("fine-tune,zscl", "mine", "data.content.train")
    assert not (my_data / "out/fine-tune").exists()
    picture.write_bytes(before)
    table = my_data / "pairs.csv"
    table.write_text(table.read_text().replace("a star", "a ring"))
    refused("zscl", "pairs.csv", "resources.reference.content")
    table.write_text(table.read_text().replace("a ring", "a star"))
    weights = load_file(my_data / "w.safetensors")
    save_file({**weights, "logit_scale": weights["logit_scale"] * 0.99}, my_data / "w.safetensors")
    refused("zscl", "w.safetensors", "weights.content")
    save_file(weights, my_data / "w.safetensors")
    assert compare("zscl") == 0 and result.read_bytes() == first


def test_a_result_of_an_older_version_is_refused_in_plain_words(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "copy")
    protocol = read(folder / "result.json")["protocol"]
    del protocol["weights"]
    forge(folder / "result.json", protocol=protocol)
    assert run("run", "--recipe", "replay", "--out", str(folder)) == 2
    assert "holds a result of an older version, which does not say weights.content: choose" in capsys.readouterr().err


@pytest.mark.slow
def test_one_world_for_several_trainings(tmp_path):
    words = ["compare", "--recipes", "fine-tune", "--seeds", "0,1", "--data-seed", "3", "--out", str(tmp_path)]
    assert run(*words) == 0
    protocols = [read(tmp_path / f"fine-tune/seed-{seed}/result.json")["protocol"] for seed in (0, 1)]
    assert [protocol["data"]["seed"] for protocol in protocols] == [3, 3]
    assert protocols[0]["data"] == protocols[1]["data"]
    summary = read(tmp_path / "summary.json")
    assert summary["protocol"]["data"]["seed"] == 3 and summary["recipes"]["fine-tune"]["last"]["n"] == 2


@pytest.mark.slow
def test_what_is_named_twice_is_one_experiment(tmp_path):
    assert run("compare", "--recipes", "fine-tune, fine-tune", "--seeds", "0,0", "--out", str(tmp_path)) == 0
    last = read(tmp_path / "summary.json")["recipes"]["fine-tune"]["last"]
    assert last["n"] == 1 and last["std"] is None


def test_what_fails_every_recipe_is_said_once(tmp_path, capsys):
    words = ["compare", "--recipes", "fine-tune,lora", "--quiet", "--out", str(tmp_path / "out"), "--data"]
    assert cli.main([*words, "/no/such"]) == 2  # which is said before any recipe is begun
    assert capsys.readouterr().err.strip() == "avalanche-vlm: --data: there is no file or folder at /no/such"
    (tmp_path / "mine.csv").write_text("image,label\n")
    assert cli.main([*words, str(tmp_path / "mine.csv")]) == 2
    err = capsys.readouterr().err.strip()
    assert err == f"avalanche-vlm: fine-tune, seed 0; lora, seed 0: {tmp_path / 'mine.csv'} has no usable rows"


@pytest.mark.slow
def test_a_recipe_that_fails_does_not_stop_the_others(tmp_path, capsys, monkeypatch):
    from avalanche_vlm.studies import experiment

    real = experiment.run_experiment

    def failing(benchmark, recipe, **options):
        if recipe == "zscl":
            options["on_step"](0, [[0.5, float("nan")]])
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


@pytest.mark.parametrize("recipe", ["fine-tune", "lora"])
def test_a_training_that_has_blown_up_in_its_last_step_is_no_result(tmp_path, capsys, recipe):
    # One step for each task: its own loss is finite, and that of the weights which it leaves is never computed.
    asked = ("--recipe", recipe, "--out", str(tmp_path), "--lr", "1e18", "--batch-size", "64", "--warmup", "0")
    assert run("run", *asked) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(rf"recipe {recipe}: .* (NaN or infinite|nan|inf) .*(lower the learning rate)", sentence)
    assert not (tmp_path / "result.json").exists()
    partial = read(tmp_path / "partial.json")
    assert [None not in row for row in partial["matrix"]] == [True]  # of the pretrained model, and of no other
    assert cli.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{recipe}, seed 0 is not finished: 0 of 2 tasks trained.\n")


def test_what_cannot_be_written_beside_a_result_does_not_lose_it(tmp_path, monkeypatch, capsys):
    modes = {}

    def failing(path, content, write):
        if path.name in ("partial.json", "timing.json", "ledger.json", "views.json", "matrix.png", "held_out.png"):
            modes.update({found: found.stat().st_mode & 0o777 for found in tmp_path.rglob("*")})
            raise InputError(f"cannot write {path}: No space left on device")
        write(path, content)

    words = ["run", "--recipe", "replay", "--out", str(tmp_path), *[word for word in SMALL if word != "--quiet"]]
    with monkeypatch.context() as patch:
        whole, picture = Document.write, jobs.replace_file
        patch.setattr(Document, "write", lambda of, path, content: failing(path, content, partial(whole, of)))
        patch.setattr(jobs, "replace_file", lambda path, content: failing(path, content, picture))
        before = os.umask(0o027)
        try:
            assert cli.main(words) == 0
        finally:
            os.umask(before)
    err = capsys.readouterr().err
    for name in ("partial.json", "timing.json", "ledger.json", "views.json"):
        assert err.count(f"cannot write {tmp_path / name}: No space left on device\n") == 1
    for name in ("matrix.png", "held_out.png"):
        assert f"{tmp_path / name} could not be drawn, and all results are there: cannot write" in err
    modes.update({found: found.stat().st_mode & 0o777 for found in tmp_path.rglob("*")})
    assert {mode for path, mode in modes.items() if path.is_file() and not path.is_symlink()} == {0o640}
    assert {mode for path, mode in modes.items() if path.is_dir() and path.name != "model"} == {0o750}
    assert any("checkpoint" in path.parts for path in modes) and any("tests" in path.parts for path in modes)
    # At the next start it is kept, what it costs is not known, and the plots are drawn.
    result = (tmp_path / "result.json").read_bytes()
    assert cli.main(words) == 0
    captured = capsys.readouterr()
    assert "finished before, kept" in captured.err and "Seconds" not in captured.out and "replay" in captured.out
    assert (tmp_path / "result.json").read_bytes() == result
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("matrix.png", "held_out.png"))
