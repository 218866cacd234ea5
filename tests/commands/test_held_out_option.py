"""``--held-out`` from the command line: in the result, its protocol, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import real_formats
from small_runs import read

from avalanche_vlm import cli
from avalanche_vlm.report import aside_table

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("held")
    real_formats.class_folders(root / "mine", ["cat", "dog"], 6)
    real_formats.class_folders(root / "others", ["sun", "moon", "star"], 2)
    real_formats.described(root, "captions", 7)
    real_formats.flickr30k(root, train=2)
    return root


def run(data, out, *words: str) -> int:
    given = ["--held-out", str(data / "others"), "--held-out", str(data / "captions"), "--held-out", "flickr30k",
             "--held-out-root", str(data)]  # fmt: skip
    fixed = ["--recipe", "fine-tune", "--epochs", "1", "--batch-size", "4", "--quiet", "--lr", "1e-2"]
    return cli.main(["run", "--data", str(data / "mine"), *fixed, "--out", str(out), *(words or given)])


def test_held_out_sets_of_a_users_own_data_are_measured_at_every_step(data, tmp_path, capsys):
    assert run(data, tmp_path / "a") == 0
    result, out = read(tmp_path / "a/result.json"), capsys.readouterr().out
    curves = result["held_out"]
    assert {"others", "captions R@1", "captions R@5", "flickr30k R@1", "flickr30k R@5 text to image"} <= set(curves)
    assert all(len(curve) == 2 for curve in curves.values()) and "score on held-out sets" in out
    assert all(k5 >= k1 for k1, k5 in zip(curves["captions R@1"], curves["captions R@5"], strict=True))
    known = result["protocol"]["data"]
    assert known["held_out"] == ["others", "captions", "flickr30k"] and known["content"]["held_out"]
    assert (tmp_path / "a/held_out.png").stat().st_size > 1000
    row = (tmp_path / "a/results.csv").read_text().splitlines()
    figures = dict(zip(row[0].split(","), row[1].split(","), strict=True))
    mean = (curves["captions R@1"][-1] + curves["flickr30k R@1"][-1]) / 2
    assert float(figures["held_out_r1"]) == pytest.approx(mean)
    assert float(figures["held_out_top1"]) == curves["others"][-1]
    assert float(figures["held_out_top1_loss"]) == pytest.approx(curves["others"][0] - curves["others"][-1])


def test_captions_of_two_data_sets_from_root_to_table(tmp_path):
    real_formats.c_clip(tmp_path / "data")
    words = ["--benchmark", "c-clip-8", "--root", str(tmp_path / "data"), "--order", "Simpsons,Pets", "--epochs", "1"]
    out = tmp_path / "out"
    assert cli.main(["run", "--recipe", "fine-tune", "--out", str(out), *words, "--batch-size", "4", "--quiet"]) == 0
    result = read(out / "result.json")
    assert result["tasks"] == ["Simpsons", "Pets"] and result["protocol"]["data"]["n_train"] == [3, 4]


def test_tars_are_data_and_held_out_sets(tmp_path):
    for year in (2014, 2015):
        samples = {}
        for n in range(8):
            picture = real_formats.dot(tmp_path / f"{n}.png", n % 2, n).read_bytes()
            texts = {"cls": str(n % 2), "json": json.dumps({"year": year, "split": "test" if n > 5 else "train"})}
            samples |= {f"{n}.png": picture, **{f"{n}.{end}": text.encode() for end, text in texts.items()}}
        real_formats.tar(tmp_path / f"mine/{year}.tar", samples)
    real_formats.tar(tmp_path / "set/test/0.tar", samples)
    (tmp_path / "set/classnames.txt").write_text("red\ngreen\nblue\n")
    words = ["--data", str(tmp_path / "mine"), "--task-column", "year", "--held-out", str(tmp_path / "set")]
    fixed = ["--recipe", "fine-tune", "--epochs", "1", "--batch-size", "4", "--quiet", "--out", str(tmp_path / "out")]
    assert cli.main(["run", *words, *fixed]) == 0
    result = read(tmp_path / "out/result.json")
    assert result["tasks"] == ["2014", "2015"] and result["protocol"]["data"]["n_train"] == [6, 6]
    assert len(result["held_out"]["set"]) == 3


def test_held_out_scores_are_printed_by_step(capsys):
    curves = {"a R@1": [90.0, None], "a R@5": [95.0, 94.0], "b": [50.0, 40.0]}
    aside_table.print_held_out({"tasks": ["may"], "held_out": curves})
    out = capsys.readouterr().out
    assert "90.0" in out and "40.0" in out and " - " in out and "95.0" not in out
    tasks = [f"task {n}" for n in range(30)]
    aside_table.print_held_out({"tasks": tasks, "held_out": {"b": [float(n) for n in range(31)]}})
    out = capsys.readouterr().out
    assert "... 19 more ..." in out and "5.0" in out and "24.0" not in out and "25.0" in out
    aside_table.print_held_out({"tasks": ["may"], "held_out": {}})
    assert not capsys.readouterr().out


def test_the_protocol_knows_held_out_sets_by_their_content(data, tmp_path):
    words = ["--held-out", str(data / "others")]
    assert run(data, tmp_path / "a", *words) == 0
    first = read(tmp_path / "a/result.json")["protocol"]["data"]["content"]
    moved = shutil.copytree(data / "others", tmp_path / "moved/others")
    assert run(data, tmp_path / "b", "--held-out", str(moved)) == 0
    here, there = (read(tmp_path / name / "request.yaml") for name in ("a", "b"))
    assert here["run"] == there["run"] and here["stream"]["held_out"] != there["stream"]["held_out"]
    assert read(tmp_path / "b/result.json")["protocol"]["data"]["content"] == first
    real_formats.dot(moved / "sun/sun_1.jpg", 5)
    assert run(data, tmp_path / "c", "--held-out", str(moved)) == 0
    other = read(tmp_path / "c/result.json")["protocol"]["data"]["content"]
    assert other["held_out"] != first["held_out"] and other["all"] == first["all"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--held-out", "nowhere"], "--held-out: there is no file or folder at nowhere, nor is that the name of"),
        (["--held-out", "imagenet"], "--held-out imagenet is a published data set: name the folder that it lies in"),
        (["--held-out", "imagenet", "--held-out-root", "ROOT"], "ROOT has no imagenet/train: it should be the folder"),
        (["--held-out", "ROOT/others", "--held-out-root", "ROOT"], "--held-out-root does not apply to folders and"),
        (["--held-out", "ROOT/mine/../mine"], "ROOT/mine/../mine is what --data trains on, so it is not held out"),
        (["--held-out-root", "ROOT"], "--held-out-root does not apply without --held-out"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_loaded(data, tmp_path, capsys, monkeypatch, words, sentence):
    from avalanche_vlm.commands import loading

    monkeypatch.setattr(loading, "load_for", lambda *given: pytest.fail("loaded"))
    assert run(data, tmp_path / "out", *(word.replace("ROOT", str(data)) for word in words)) == 2
    err = capsys.readouterr().err.strip()
    assert sentence.replace("ROOT", str(data)) in err and "\n" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("own", "options"), [("food101", []), ("food101-coop", ["--option", "splits=coop"])])
def test_a_task_of_the_benchmark_is_not_held_out(tmp_path, capsys, own, options):
    words = ["--benchmark", "mtil", "--root", str(tmp_path), "--held-out", own, *options]
    make = real_formats.coop_root if options else real_formats.torchvision_root
    make(tmp_path)
    assert cli.main(["run", *words, "--recipe", "fine-tune", "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert f"--held-out {own}: mtil trains on Food itself, so it is not held out" in capsys.readouterr().err


@pytest.mark.slow
def test_advice_keeps_to_a_limit_on_them(data, tmp_path):
    words = ["--data", str(data / "mine"), "--held-out", str(data / "others"), "--keep-zero-shot", "0"]
    fixed = ["--minutes", "20", "--recipes", "zero-shot,fine-tune", "--out", str(tmp_path), "--quiet", "--epochs", "1"]
    assert cli.main(["advise", *words, *fixed]) == 0
    advice = json.loads((tmp_path / "advice.json").read_text())
    assert advice["constraints"]["keep_zero_shot"] == 0
    assert "others" in json.dumps(advice)
