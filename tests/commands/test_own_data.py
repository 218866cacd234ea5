"""``run``, ``compare`` and ``advise`` on a user's own data."""

from __future__ import annotations

import shutil
import sys

import pytest
from small_runs import read, run

from avalanche_vlm import cli
from avalanche_vlm.catalogue import COMPARED

pytestmark = pytest.mark.usefixtures("narrow_tiny")


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


def test_what_no_check_has_found_is_passed_over_and_told_at_the_end(tmp_path, capsys):
    from PIL import Image

    for part in ("train", "test"):
        for c, name in enumerate(("red thing", "blue thing")):
            for i in range(3):
                path = tmp_path / "mine" / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (255 * (1 - c), 9 * i, 255 * c)).save(path)
    bad = tmp_path / "mine" / "train" / "red thing" / "1.png"
    aside = tmp_path / "aside" / "blue thing" / "0.png"
    shutil.copytree(tmp_path / "mine" / "test", tmp_path / "aside")
    Image.new("RGB", (32, 32), (9, 9, 255)).save(aside.with_name("3.png"))
    for path in (bad, aside):
        path.write_bytes(path.read_bytes()[:60])
    arguments = ["run", "--data", str(tmp_path / "mine"), "--epochs", "1", "--lr", "1e-3", "--check", "none", "--quiet"]
    assert cli.main([*arguments, "--out", str(tmp_path / "a"), "--no-save"]) == 2
    assert f"{bad} cannot be decoded" in capsys.readouterr().err
    arguments += ["--held-out", str(tmp_path / "aside")]
    assert cli.main([*arguments, "--on-error", "skip", "--out", str(tmp_path / "b"), "--no-save"]) == 0
    told = read(tmp_path / "b/result.json")["data"]
    assert told["passed_over"]["count"] == 2 and not told["skipped"]
    assert all(str(path) in of for path, of in zip((bad, aside), told["passed_over"]["files"], strict=True))
    said = "2 images could not be read, and others took their places: result.json names them (data.passed_over)."
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
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
    assert "does not bring, reference pairs: give some with reference (--reference" in capsys.readouterr().err
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
    assert "a generator of pictures: name one with generator (--generator MODEL)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert cli.main([*arguments, "--generator", "/no/model", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err.strip()
    assert err == 'avalanche-vlm: generated images need diffusers: pip install "avalanche-vlm[generate]"'
    assert run("run", "--generator", "some/model", "--out", str(tmp_path / "other")) == 2
    assert "--generator does not apply to picturebook" in capsys.readouterr().err


@pytest.mark.slow
def test_ones_own_pictures_are_compared_and_advised_on_without_anything_else(tmp_path, capsys):
    from PIL import Image

    for task in ("first", "second"):
        for i in range(12):
            path = tmp_path / "mine" / task / f"class {i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (20 * i, 0, 0)).save(path)
    own = ["--data", str(tmp_path / "mine"), "--epochs", "1"]
    assert cli.main(["compare", *own, "--out", str(tmp_path / "a")]) == 0
    out, told = capsys.readouterr()
    assert "No recipe ends above chance, as far as the test samples tell: the best has" in out
    assert told.count("the tiny model knows the pictures and words of the picturebook alone") == 1
    assert "left out: recipe zscl needs what" in told and not (tmp_path / "a/zscl").exists()
    assert {path.parent.parent.name for path in tmp_path.glob("a/*/seed-0/result.json")} == {*COMPARED} - {"zscl"}
    named = ["compare", *own, "--recipes", "fine-tune,zscl", "--quiet", "--out", str(tmp_path / "b")]
    assert cli.main(named) == 2 and not (tmp_path / "b").exists()  # before anything is trained
    few = ["--recipes", "fine-tune,zero-shot,replay", "--minutes", "9", "--quiet", "--no-raw-data"]
    assert cli.main(["advise", *own, *few, "--out", str(tmp_path / "c")]) == 0
    advice = read(tmp_path / "c/advice.json")
    assert {entry["recipe"] for entry in advice["excluded"]} <= {"replay", "fine-tune"}
    # The tiny model knows nothing of grey squares, and four test samples would not show it if it did.
    assert advice["answer"]["recipe"] is None and "is at chance" in advice["answer"]["sentence"]
